"""Finds the evaluation transform of another program's weights: in the JSON beside them, else in the file's name.

The remarks, "where it comes from", are stored in the model card: other words would be another file.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.foreign_network import is_clip
from convnext_imagenet.model.transform import EvalTransform

# The JSON and the count of classes -> fields of EvalTransform and a remark, or None for another model's JSON.
_Reader = Callable[[Mapping[str, Any], int | None], tuple[dict[str, Any], str] | None]

# Of OpenCLIP's weights, and of timm's weights that come from them (timm.data.OPENAI_CLIP_MEAN, _STD).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_SQUASHED_FROM_PX = 384  # from this size on, the paper and transformers resize the whole image
_WHOLE_CROP_PX = 256  # from this size up to 384, timm and OpenCLIP evaluate at crop 1.0
_PIL_FILTERS = {2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling, as transformers writes it


def find_transform(path: Path, scheme: str, classes: int | None) -> tuple[EvalTransform, str]:
    """Return the evaluation transform of the weights in `path` and, in words, where it comes from.

    It comes from timm's `config.json`, transformers' `preprocessor_config.json` or OpenCLIP's `open_clip_config.json`
    in the same folder, else from a size in the file's name (`_384`), else it is 224 px at 0.875. `classes` is the
    number of outputs of the file's classifier, None without one: a `config.json` with another number belongs to another
    model and is ignored. timm's test size wins (DECISIONS, 2026-11-26).

    Raises ModelError for a JSON file that cannot be read, or describes a transform that is not supported.
    """
    readers: dict[str, tuple[str, _Reader]] = {
        "timm": ("config.json", _from_timm),
        "transformers": ("preprocessor_config.json", _from_transformers),
        "dinov3": ("preprocessor_config.json", _from_transformers),
        "openclip": ("open_clip_config.json", _from_openclip),
    }
    other = ""
    if scheme in readers:
        name, read = readers[scheme]
        beside = path.parent / name
        if beside.is_file():
            described = _read(beside, read, classes)
            if described is not None:
                return described
            other = f"; {name} beside it is another model's"
    transform, why = _from_name(path.name)
    if scheme == "openclip" or is_clip(path.stem):
        transform = EvalTransform(transform.size_px, 1.0, transform.mode, mean=CLIP_MEAN, std=CLIP_STD)
        why += ", with CLIP's mean and deviation"
    return transform, why + other


def _read(beside: Path, read: _Reader, classes: int | None) -> tuple[EvalTransform, str] | None:
    try:
        described = read(json.loads(beside.read_bytes()), classes)
        if described is None:
            return None
        fields, remark = described
        return EvalTransform(**fields), f"{beside.name} beside it{remark}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ModelError) as error:
        raise ModelError(
            f"{beside}: does not describe a supported transform ({type(error).__name__}: {error}); "
            f"move it away, and pass --size, --crop-pct and --resize"
        ) from error


def _from_timm(config: Mapping[str, Any], classes: int | None) -> tuple[dict[str, Any], str] | None:
    settings = config.get("pretrained_cfg", config)
    count = config.get("num_classes", settings.get("num_classes", classes))
    if "input_size" not in settings or (classes is not None and count != classes):
        return None
    trained, test = settings["input_size"], settings.get("test_input_size")
    size = test or trained
    crop_pct = (test and settings.get("test_crop_pct")) or settings.get("crop_pct", 0.875)
    mode = {"center": "crop", "squash": "squash"}[settings.get("crop_mode", "center")]
    if trained[0] != 3:
        raise ModelError(f"input_size is {trained}: {trained[0]} channels")
    if size[1] != size[2] or (mode == "squash" and crop_pct != 1):
        raise ModelError(f"input_size {size} with crop_pct {crop_pct} and crop_mode {mode} is not supported")
    fields = {"size_px": size[1], "crop_pct": crop_pct, "mode": mode, "mean": tuple(settings["mean"])}
    fields |= {"std": tuple(settings["std"]), "interpolation": settings.get("interpolation", "bicubic")}
    return fields, f", its test size (trained at {trained[1]})" if test else ""


def _from_transformers(config: Mapping[str, Any], _: int | None) -> tuple[dict[str, Any], str]:
    if not (config.get("do_resize", True) and config.get("do_normalize", True)):
        raise ModelError("do_resize or do_normalize is off")
    factor = config.get("rescale_factor", 1 / 255)
    if not config.get("do_rescale", True) or abs(255 * factor - 1) > 1e-4 or config.get("offset"):
        raise ModelError("do_rescale is off, or rescale_factor is not 1/255")
    if config.get("do_pad"):
        raise ModelError("do_pad is on")
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "ConvNextImageProcessor")
    fields: dict[str, Any] = {"mean": tuple(config["image_mean"]), "std": tuple(config["image_std"])}
    fields["interpolation"] = _PIL_FILTERS[config.get("resample", 3 if kind.startswith("ConvNext") else 2)]
    size, remark = config["size"], ""
    if kind.startswith("ConvNext"):
        if config.get("do_center_crop"):
            raise ModelError("do_center_crop is on")
        size_px = size if isinstance(size, int) else size["shortest_edge"]
        is_squashed = size_px >= _SQUASHED_FROM_PX
        fields |= {"size_px": size_px, "crop_pct": 1.0 if is_squashed else config.get("crop_pct") or 0.875}
        fields["mode"] = "squash" if is_squashed else "crop"
        remark = "" if is_squashed else "; there an odd rest beside the crop is rounded down, here as in torchvision"
    elif kind.startswith("DINOv3ViT"):
        if config.get("do_center_crop") or isinstance(size, int) or size["height"] != size["width"]:
            raise ModelError(f"size is {size} and do_center_crop {config.get('do_center_crop')}")
        fields |= {"size_px": size["height"], "crop_pct": 1.0, "mode": "squash"}
        remark = "; there pixels are resized as floats and not rounded"
    else:
        raise ModelError(f"image_processor_type is {kind}")
    return fields, remark


def _from_openclip(config: Mapping[str, Any], _: int | None) -> tuple[dict[str, Any], str]:
    settings = config["preprocess_cfg"]
    size = settings.get("size") or config["model_cfg"]["vision_cfg"]["image_size"]
    fields = {"size_px": size if isinstance(size, int) else size[0], "crop_pct": 1.0}
    fields |= {"mode": {"shortest": "crop", "squash": "squash"}[settings.get("resize_mode", "shortest")]}
    fields |= {"mean": tuple(settings["mean"]), "std": tuple(settings["std"])}
    return fields | {"interpolation": settings.get("interpolation", "bicubic")}, ""


def _from_name(name: str) -> tuple[EvalTransform, str]:
    sizes = [int(px) for px in re.findall(r"(?<![0-9a-z])r?(\d{3})(?![0-9a-z])", Path(name).stem.lower())]
    known = [px for px in sizes if px % 32 == 0 and px >= 224]
    if not known:
        return EvalTransform(), "the usual 224 px, as nothing beside it or in its name tells another"
    size_px = known[-1]
    if size_px >= _SQUASHED_FROM_PX:
        return EvalTransform(size_px, 1.0, "squash"), f"the {size_px} in its name: all of the image resized"
    if size_px >= _WHOLE_CROP_PX:
        return EvalTransform(size_px, 1.0), f"the {size_px} in its name: crop 1.0"
    return EvalTransform(size_px), f"the {size_px} in its name"


def describe_transform(transform: EvalTransform) -> str:
    """Return the transform in words, with mean and standard deviation."""
    numbers = (" ".join(f"{value:.4g}" for value in values) for values in (transform.mean, transform.std))
    normalised = "mean {}, std {}".format(*numbers)
    if transform.mode == "squash":
        return f"the whole image resized to {transform.size_px} px, {transform.interpolation}, {normalised}"
    return (
        f"short side resized to {transform.resize_px} px, {transform.interpolation}, centre crop {transform.size_px} "
        f"px, {normalised}"
    )
