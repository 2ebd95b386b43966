"""What timm or transformers make of images: JOB.json with program, model, images -> weights, pixels, logits beside it.

Runs where the extra `parity` is installed, as a process of its own: MindSpore and PyTorch need not share one.
"""

import json
import sys
from pathlib import Path
from typing import Any

from programs import clip_model, dinov3_model, facebook_names, timm_model, transformers_model

# isort: split
import numpy as np
import PIL
import timm.data
import torch
from PIL import Image
from timm.models import load_checkpoint, save_for_hf
from timm.models.convnext import checkpoint_filter_fn
from transformers.models.convnext.image_processing_convnext import ConvNextImageProcessor
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def main(job_file: Path) -> None:
    """Do what the job file says, in its folder."""
    job, folder = json.loads(job_file.read_text()), job_file.parent
    images = [Image.open(path).convert("RGB") for path in job["images"]]
    runs = {
        "timm": run_timm,
        "facebook": run_timm,
        "reader": run_reader,
        "transformers": run_transformers,
        "dinov3": run_dinov3,
        "openclip": run_openclip,
    }
    results = runs[job["program"]](job, folder, images)
    np.savez(folder / "results.npz", pillow=PIL.__version__, **results)


def run_timm(job: dict[str, Any], folder: Path, images: list[Image.Image]) -> dict[str, np.ndarray]:
    """timm's model and its own evaluation transform; as Facebook's file where that is the program."""
    model = timm_model(job["model"], seed=7, **job.get("options", {}))
    changes = {"input_size": (3, job["size"], job["size"]), "crop_pct": job["crop_pct"], "crop_mode": job["crop_mode"]}
    if job["program"] == "facebook":
        torch.save({"model": facebook_names(model.state_dict())}, folder / f"{job['file']}.pth")
    else:
        model.pretrained_cfg |= changes | {"test_input_size": None, "test_crop_pct": None}
        model.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if value is not None}
        save_for_hf(model, folder, safe_serialization=True)
    return answer(model, timm_images(images, changes))


def run_reader(job: dict[str, Any], folder: Path, images: list[Image.Image]) -> dict[str, np.ndarray]:
    """The logits of timm's model with the weights of each file, as timm reads it: strictly, by its own converter."""
    changes = {"input_size": (3, job["size"], job["size"]), "crop_pct": job["crop_pct"], "crop_mode": job["crop_mode"]}
    images_NCHW, results = timm_images(images, changes), {}
    for file in job["files"]:
        model = timm.create_model(job["model"]).eval()
        load_checkpoint(model, str(folder / file), strict=True, filter_fn=checkpoint_filter_fn)
        results[file] = answer(model, images_NCHW)["logits"]
    return results


def timm_images(images: list[Image.Image], changes: dict[str, Any]) -> torch.Tensor:
    """The images as timm's own evaluation transform makes them."""
    config = timm.data.resolve_data_config(changes | {"mean": MEAN, "std": STD, "interpolation": "bicubic"})
    transform = timm.data.create_transform(**config)
    return torch.stack([transform(image) for image in images])


def run_transformers(job: dict[str, Any], folder: Path, images: list[Image.Image]) -> dict[str, np.ndarray]:
    """transformers' model and processor by Pillow; the one by torchvision, which is its default, goes along."""
    model = transformers_model(7, job["v2"], job["depths"], job["dims"])
    model.save_pretrained(folder)
    settings = {"size": {"shortest_edge": job["size"]}, "image_mean": MEAN, "image_std": STD, "resample": 3}
    processor = ConvNextImageProcessorPil(**settings)
    processor.save_pretrained(folder)
    results = answer(model, processor(images, return_tensors="pt")["pixel_values"])
    other = answer(model, ConvNextImageProcessor(**settings)(images, return_tensors="pt")["pixel_values"])
    return results | {f"torchvision_{name}": value for name, value in other.items()}


def run_dinov3(job: dict[str, Any], folder: Path, images: list[Image.Image]) -> dict[str, np.ndarray]:
    """transformers' DINOv3 ConvNeXt: its pooled output, on timm's pixels, because its processor needs no file."""
    model = dinov3_model(7, **job["changes"])
    model.save_pretrained(folder)
    changes = {"input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center"}
    return answer(model, timm_images(images, changes))


@torch.no_grad()
def run_openclip(job: dict[str, Any], folder: Path, images: list[Image.Image]) -> dict[str, np.ndarray]:
    """OpenCLIP's zero-shot classifier of the job's classes and prompts, and the embeddings of its text tower."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from open_clip import build_zero_shot_classifier
    from open_clip.tokenizer import SimpleTokenizer
    from safetensors.torch import save_file

    network, tokenizer = clip_model(7, job["proj"]), SimpleTokenizer()
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    prompts = [(name, template.format(name)) for name in job["classes"] for template in job["templates"]]
    vectors = network.encode_text(tokenizer([prompt for _, prompt in prompts]))
    table = pa.table({"name": [name for name, _ in prompts], "embedding": vectors.tolist()})
    pq.write_table(table, folder / "texts.parquet")
    templates = [template.format for template in job["templates"]]
    weights = build_zero_shot_classifier(network, tokenizer, job["classes"], templates)
    changes = {"input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center"}
    embedded = network.encode_image(timm_images(images, changes), normalize=True)
    return {"logits": (network.logit_scale.exp() * embedded @ weights).numpy()}


@torch.no_grad()
def answer(model: torch.nn.Module, images_NCHW: torch.Tensor) -> dict[str, np.ndarray]:
    """The logits, and the pixels (0..255, before normalisation) that they were computed from."""
    logits = model(images_NCHW)
    logits = getattr(logits, "pooler_output", logits)
    pixels_NHWC = (images_NCHW.permute(0, 2, 3, 1) * torch.tensor(STD) + torch.tensor(MEAN)) * 255
    return {"logits": getattr(logits, "logits", logits).numpy(), "pixels": pixels_NHWC.numpy()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
