"""Reads the tensors of a PyTorch checkpoint by `weights_only`, which runs no code (DECISIONS, 2026-11-26)."""

import argparse
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convnext_imagenet.base.wording import install_command
from convnext_imagenet.model.errors import ModelError

# Keys under which checkpoints hold a state dict: those of Facebook's main.py and timm's train.py, then others.
_RAW_KEYS = ("model", "state_dict", "module", "model_state_dict")
_EMA_KEYS = ("model_ema", "state_dict_ema", "ema", "ema_state_dict")

Arrays = dict[str, np.ndarray]


def read_pth(path: Path) -> tuple[Arrays | None, Arrays | None]:
    """Return the weights and their moving average, each by name, or None for the one that the file does not hold.

    Raises ModelError when PyTorch is not installed, and for a file that is truncated, holds no tensors, or holds
    objects that would run code.
    """
    value = _load(path)
    if not isinstance(value, Mapping):
        raise ModelError(f"{path}: holds a {type(value).__name__}, not weights by name; save the model's state_dict()")
    raw, ema = _first(path, value, _RAW_KEYS), _first(path, value, _EMA_KEYS)
    if raw is None and ema is None:
        raw = _arrays(path, value)
        if not raw:
            keys = ", ".join(str(key) for key in list(value)[:5]) or "nothing"
            raise ModelError(f"{path}: holds no weights (it holds {keys}); save the model's state_dict()")
    return raw, ema


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        command = install_command("convnext_imagenet[torch]")
        raise ModelError(
            f"{path}: a PyTorch file, but PyTorch is not installed; run `{command}`, or give the "
            f"weights as .safetensors"
        ) from None
    try:
        # Checkpoints of Facebook's and timm's training carry their arguments: names and plain values.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises many types for damaged pickles
        text = " ".join(str(error).split())
        if blocked := re.search(r"\bGLOBAL (\S+)|(Unsupported operand \d+)", text):
            name = str(blocked[1] or blocked[2])
            kind = (
                "a whole pickled model"
                if re.search(r"ConvNe?xt|\.nn\.modules|\.models\.", name)
                else "more than weights"
            )
            raise ModelError(
                f"{path}: holds {kind} ({name}), and reading that would run its code; "
                f"if you trust the model, save only its state_dict()"
            ) from None
        raise ModelError(
            f"{path}: truncated, damaged or not PyTorch weights ({text.split('. ')[0][:160]}); copy it again"
        ) from None


def _first(path: Path, value: Mapping[Any, Any], keys: tuple[str, ...]) -> Arrays | None:
    candidates = (_arrays(path, value[key]) for key in keys if isinstance(value.get(key), Mapping))
    return next((arrays for arrays in candidates if arrays), None)


def _arrays(path: Path, value: Mapping[Any, Any]) -> Arrays:
    import torch

    return {str(name): _array(path, name, tensor) for name, tensor in value.items() if isinstance(tensor, torch.Tensor)}


def _array(path: Path, name: str, tensor: Any) -> np.ndarray:
    import torch

    if tensor.is_quantized or tensor.layout != torch.strided:
        raise ModelError(f"{path}: {name} is quantised or sparse; give float weights")
    tensor = tensor.detach()
    try:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        raise ModelError(f"{path}: {name} is {tensor.dtype} on {tensor.device}; give float weights") from error
