"""Tensors of a PyTorch checkpoint, read by `weights_only`, which builds tensors and containers and runs no code."""

import argparse
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convnext_imagenet.model.errors import ModelError

EXTRA = "pip install 'convnext_imagenet[torch]'"

# Where programs keep a state dict in their checkpoint: Facebook's main.py and timm's train.py, then habits of others.
_RAW_KEYS = ("model", "state_dict", "module", "model_state_dict")
_EMA_KEYS = ("model_ema", "state_dict_ema", "ema", "ema_state_dict")

Arrays = dict[str, np.ndarray]


def read_pth(path: Path) -> tuple[Arrays | None, Arrays | None]:
    """The weights and their moving average, by name; None for what the file does not hold.

    Raises ModelError when PyTorch is not installed, and for a file that is truncated, holds objects that would have to
    be run, or holds no tensors.
    """
    value = _load(path)
    if not isinstance(value, Mapping):
        raise ModelError(f"{path}: holds a {type(value).__name__}, not weights by name; save the model's state_dict()")
    raw, ema = _first(path, value, _RAW_KEYS), _first(path, value, _EMA_KEYS)
    if raw is None and ema is None:
        raw = _arrays(path, value)
        if not raw:
            keys = ", ".join(str(key) for key in list(value)[:5]) or "nothing"
            raise ModelError(f"{path}: there are no weights in it (it holds {keys}); save the model's state_dict()")
    return raw, ema


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise ModelError(
            f"{path}: a PyTorch file, and PyTorch is not installed: {EXTRA}, or give the weights as .safetensors"
        ) from None
    try:
        # Checkpoints of Facebook's and timm's training carry their arguments: names and plain values.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is then refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises whatever its pickle reader happens to meet
        text = " ".join(str(error).split())
        if blocked := re.search(r"\bGLOBAL (\S+)|(Unsupported operand \d+)", text):
            raise ModelError(
                f"{path}: holds more than weights ({blocked[1] or blocked[2]}), and reading that would run its code; "
                f"where the model is trusted, save its state_dict() alone"
            ) from None
        raise ModelError(
            f"{path}: truncated, damaged or no PyTorch weights ({text.split('. ')[0][:160]}); copy it again"
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
