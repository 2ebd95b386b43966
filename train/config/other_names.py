"""What other training programs call our settings, and what to use here instead.

Sources of the names: timm (train.py), MindCV (config.py), the MindSpore example that this project replaces
(docs/parameters.md), torchvision (references/classification/train.py), facebookresearch/ConvNeXt (main.py) and
Hugging Face transformers (TrainingArguments). A name that is a key of ours in another section needs no row.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class OtherName:
    """What a name means here: `targets` are keys and options of the command line, `note` says what differs.

    Without targets nothing corresponds, and the note says what happens instead.
    """

    targets: tuple[str, ...]
    note: str

    def __str__(self) -> str:
        """Return the advice for an error line."""
        if not self.targets:
            return self.note
        return f"use {' and '.join(self.targets)}{f' ({self.note})' if self.note else ''}"


# Names, what to use here, what differs. Names are in lower case, with underscores.
ROWS: tuple[tuple[str, str, str], ...] = (
    # The network and its first weights.
    ("model model_name model_type arch architecture backbone network", "model.variant", "such as convnext_tiny"),
    ("nb_classes num_labels n_classes", "model.num_classes", "0 takes the number of classes in the records"),
    ("drop_path drop_connect stochastic_depth stochastic_depth_prob", "model.drop_path_rate", ""),
    ("drop drop_rate dropout", "", "a ConvNeXt has no dropout; model.drop_path_rate is its stochastic depth"),
    ("layer_scale_init_value layer_scale ls_init_value", "model.layer_scale_init", "its initial value"),
    ("nonlinearity activation act_layer", "", "a ConvNeXt has only GELU, and it is computed exactly"),
    ("freeze freeze_stages", "model.frozen_stages", "the stem and that many stages"),
    (
        "pretrained finetune initial_checkpoint ckpt_path checkpoint checkpoint_path weights model_name_or_path",
        "--init-from",
        "a weights file or a RUN; convnext-serve weights import converts files of other programs",
    ),
    (
        "resume auto_resume resume_opt resume_from_checkpoint start_epoch",
        "",
        "run the same command again to resume; --init-from begins a new run with given weights",
    ),
    # Data, batches, workers.
    (
        "data_url data_dir data_path dataset dataset_dir dataset_name train_dir",
        "--records",
        "verified records instead of an image folder; make records writes them",
    ),
    ("eval_data_path val_dir", "--records", "they hold train and val"),
    ("train_split val_split", "", "records have the splits train and val"),
    (
        "img_size image_size image_resize input_size size resolution imgsz",
        "data.size_px",
        "evaluation follows it unless data.eval_size_px is set",
    ),
    ("train_crop_size crop_size", "data.size_px", ""),
    ("val_crop_size test_size", "data.eval_size_px", ""),
    ("crop_pct", "data.eval_crop_pct", ""),
    ("val_resize_size", "data.eval_crop_pct", "the crop's share: data.eval_size_px / the size before cropping"),
    (
        "batch_size bs",
        "data.global_batch_size data.device_batch_size",
        "the rows of a step on all devices, and the most that one device computes at a time; in timm, torchvision "
        "and MindCV it is the rows of one device",
    ),
    ("train_batch_size total_batch_size effective_batch_size", "data.global_batch_size", "rows of all devices"),
    (
        "per_device_train_batch_size per_gpu_train_batch_size batch_size_per_gpu batch_size_per_device "
        "micro_batch_size",
        "data.device_batch_size",
        "the most rows that one device computes at a time; data.global_batch_size counts the rows of a step on all",
    ),
    (
        "update_freq grad_accum_steps gradient_accumulation_steps gradient_accumulation accum_iter",
        "data.device_batch_size",
        "micro-batches follow from it; data.global_batch_size already counts the rows of all of them",
    ),
    ("validation_batch_size val_batch_size per_device_eval_batch_size", "data.eval_batch_size", ""),
    ("workers num_workers num_parallel_workers dataloader_num_workers", "--workers", "threads; they change no number"),
    ("shuffle", "", "each epoch is shuffled; data.shuffle_block_rows says how"),
    ("drop_last drop_remainder dataloader_drop_last", "", "each epoch leaves out its last, incomplete batch"),
    # Augmentation.
    ("scale train_scale", "augment.crop_scale", "[low, high]"),
    ("ratio", "augment.crop_ratio", "[low, high] of width / height"),
    ("hflip horizontal_flip flip", "augment.flip_prob", "a probability"),
    ("vflip", "", "images are never flipped vertically"),
    ("aa rand_augment randaugment auto_augment_policy", "augment.auto_augment", '"" is none; only RandAugment'),
    ("color_jitter", "", "the color operations are those of RandAugment (augment.auto_augment)"),
    ("train_interpolation", "augment.interpolation", ""),
    ("reprob re_prob random_erase random_erasing", "augment.erase_prob", "a probability"),
    ("remode re_mode re_value", "augment.erase_mode", '"const", "rand" or "pixel"'),
    ("recount re_count", "augment.erase_count", ""),
    ("re_scale", "augment.erase_scale", "the share of the image that all boxes together cover"),
    ("re_ratio", "augment.erase_ratio", "height / width of a box"),
    ("mixup mix_up", "mix.mixup_alpha", "the parameter of its Beta draw; mix.prob is the probability of mixing"),
    ("cutmix", "mix.cutmix_alpha", "the parameter of its Beta draw; mix.switch_prob is cutmix's share"),
    ("mixup_prob cutmix_prob mix_prob", "mix.prob", "of mixing at all; mix.switch_prob is cutmix's share"),
    ("mixup_switch_prob", "mix.switch_prob", ""),
    ("mixup_mode", "mix.mode", ""),
    ("mixup_off_epoch", "", "mixup and cutmix stay on to the end of a run"),
    ("smoothing label_smoothing_factor", "mix.label_smoothing", ""),
    ("bce_loss loss criterion", "", "the loss is cross-entropy with soft targets"),
    ("class_weights class_weight", "data.class_weight_power", "1 weights a class by the inverse of its rows"),
    ("weighted_sampler class_balanced balanced_sampling", "data.balance_power", "1 draws all classes equally often"),
    # One optimizer step.
    ("opt optim optimizer optimizer_name", "optimizer.name", "adamw_uncorrected is MindSpore's AdamWeightDecay"),
    ("beta betas opt_betas", "optimizer.beta1 optimizer.beta2", "one number each"),
    ("adam_beta1", "optimizer.beta1", ""),
    ("adam_beta2", "optimizer.beta2", ""),
    ("opt_eps adam_epsilon epsilon", "optimizer.eps", ""),
    ("use_nesterov", "optimizer.nesterov", ""),
    ("wd", "optimizer.weight_decay", ""),
    ("weight_decay_end", "", "optimizer.weight_decay stays the same to the end of a run"),
    (
        "clip_grad clip_grad_norm clip_value clip_global_norm_value max_grad_norm grad_clip gradient_clip_val",
        "optimizer.clip_norm",
        "the norm of all gradients together; 0 does not clip",
    ),
    ("clip_mode", "", "gradients are clipped by their common norm (optimizer.clip_norm)"),
    # The learning rate.
    (
        "lr learning_rate base_learning_rate initial_lr max_lr peak_lr",
        "schedule.base_lr",
        "the highest rate, for a step of data.global_batch_size rows; it is not scaled",
    ),
    (
        "lr_base blr",
        "schedule.base_lr",
        "the rate itself; others scale theirs by the rows of a step / 256",
    ),
    ("lr_base_size lr_base_scale scale_lr auto_scale_lr", "", "schedule.base_lr is the rate itself; it is not scaled"),
    ("lr_min final_lr min_learning_rate eta_min", "schedule.min_lr", ""),
    ("sched scheduler lr_scheduler lr_scheduler_type lr_schedule", "schedule.kind", '"cosine", "step" or "constant"'),
    ("warmup lr_warmup_epochs warmup_length num_warmup_epochs", "schedule.warmup_epochs", "in epochs"),
    (
        "warmup_steps warmup_iters num_warmup_steps",
        "schedule.warmup_epochs",
        "in epochs, which may be a fraction: steps / steps of an epoch",
    ),
    ("warmup_ratio", "schedule.warmup_epochs", "in epochs: the ratio times train.epochs"),
    ("warmup_factor lr_warmup_decay", "schedule.warmup_lr", "the rate of step 0 itself, no share of schedule.base_lr"),
    ("lr_step_size step_size", "schedule.decay_epochs", "in epochs"),
    ("lr_gamma gamma dr", "schedule.decay_rate", ""),
    ("decay_milestones milestones multi_step_decay_milestones", "schedule.decay_epochs", "one interval, no list"),
    # The average of the weights, precision.
    ("model_ema with_ema use_ema", "ema.decay", "above 0, such as 0.9999, keeps an average"),
    ("model_ema_decay ema_decay", "ema.decay", ""),
    ("model_ema_warmup", "ema.warmup", ""),
    ("model_ema_steps", "", "the average is updated after each step"),
    ("amp use_amp native_amp apex_amp amp_level opt_level mixed_precision", "precision.level", "O0 is float32"),
    ("fp16 bf16 amp_dtype", "precision.level precision.dtype", "such as O1 and bfloat16"),
    (
        "is_dynamic_loss_scale dynamic_loss_scale",
        "precision.loss_scale",
        '"none", "static" or "dynamic"',
    ),
    # The length of a run, what it keeps, where it runs.
    ("num_train_epochs num_epochs max_epochs epoch_size total_epochs", "train.epochs", ""),
    ("max_steps max_iters total_steps", "train.epochs", "in epochs: steps / steps of an epoch"),
    ("random_seed manual_seed", "train.seed", ""),
    ("val_interval eval_interval eval_freq eval_steps eval_strategy", "train.eval_every_epochs", "in epochs"),
    (
        "save_ckpt_freq ckpt_save_interval save_interval save_freq save_steps recovery_interval",
        "--save-steps --save-minutes",
        "besides the checkpoint after each epoch",
    ),
    (
        "checkpoint_hist keep_checkpoint_max save_ckpt_num save_total_limit",
        "train.keep_checkpoints",
        "train.keep_best counts the best ones",
    ),
    (
        "patience patience_epochs early_stopping early_stopping_patience",
        "train.patience_epochs",
        "in epochs, for the metric of train.best_by",
    ),
    ("output output_dir log_dir save_dir ckpt_save_dir work_dir train_url", "--out", ""),
    ("device device_target", "--device-target", ""),
    ("gpus num_gpus num_devices world_size distribute", "--devices", "on each machine; --nodes counts machines"),
)

OTHER_NAMES: Mapping[str, OtherName] = types.MappingProxyType(
    {name: OtherName(tuple(targets.split()), note) for names, targets, note in ROWS for name in names.split()}
)
