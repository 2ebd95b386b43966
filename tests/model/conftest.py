"""Small networks and a float64 NumPy ConvNeXt, written from the papers as plain convolutions over NCHW."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import erf

from convnext_imagenet.model.convnext import ConvNeXtConfig, parameter_shapes
from convnext_imagenet.model.runtime import prepare

Arrays = Mapping[str, np.ndarray]


@pytest.fixture(scope="session", autouse=True)
def _prepared() -> None:
    prepare()


@pytest.fixture(params=["v1", "v2"])
def config(request: pytest.FixtureRequest) -> ConvNeXtConfig:
    return small_config(grn=request.param == "v2")


@pytest.fixture(scope="session")
def make_config() -> Callable[..., ConvNeXtConfig]:
    return small_config


@pytest.fixture(scope="session")
def make_arrays() -> Callable[..., dict[str, np.ndarray]]:
    return random_arrays


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    """The float64 functions: conv, depthwise, layer_norm, gelu, grn, block, features, logits."""
    return SimpleNamespace(
        conv=conv,
        depthwise=depthwise,
        layer_norm=layer_norm,
        gelu=gelu,
        grn=grn,
        block=block,
        features=features,
        logits=logits,
    )


def small_config(grn: bool = False, num_classes: int = 5) -> ConvNeXtConfig:
    return ConvNeXtConfig("small", (1, 2, 1, 1), (8, 16, 24, 32), grn=grn, num_classes=num_classes)


def random_arrays(config: ConvNeXtConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters large enough that a wrong branch, bias or gamma shows in the output."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in parameter_shapes(config).items():
        fan_in = np.prod(shape[1:]) if len(shape) > 1 and "grn" not in name else 1
        centre = 1.0 if name.endswith("gamma") or (name.endswith("weight") and len(shape) == 1) else 0.0
        arrays[name] = (centre + rng.standard_normal(shape) * 0.5 / np.sqrt(fan_in)).astype(np.float32)
    return arrays


def conv(x_NCHW: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    size = weight.shape[-1]
    windows = sliding_window_view(x_NCHW, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2) + bias[:, None, None]


def depthwise(x_NCHW: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    height, width = x_NCHW.shape[2:]
    padded = np.pad(x_NCHW, ((0, 0), (0, 0), (3, 3), (3, 3)))
    y = np.zeros(x_NCHW.shape) + bias[:, None, None]
    for i in range(7):
        for j in range(7):
            y += padded[:, :, i : i + height, j : j + width] * weight[:, 0, i, j][:, None, None]
    return y


def layer_norm(x_NC: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x_NC - x_NC.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def grn(x_NHWC: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    norm = np.sqrt((x_NHWC**2).sum((1, 2), keepdims=True))
    return gamma * (x_NHWC * (norm / (norm.mean(-1, keepdims=True) + 1e-6))) + beta + x_NHWC


def _last(x_NCHW: np.ndarray) -> np.ndarray:
    return x_NCHW.transpose(0, 2, 3, 1)


def _first(x_NHWC: np.ndarray) -> np.ndarray:
    return x_NHWC.transpose(0, 3, 1, 2)


def block(x_NCHW: np.ndarray, arrays: Arrays, name: str, keep_N: np.ndarray | None = None) -> np.ndarray:
    def get(part: str) -> np.ndarray:
        return arrays[f"{name}.{part}"].astype(np.float64)

    y = _last(depthwise(x_NCHW, get("dwconv.weight"), get("dwconv.bias")))
    y = layer_norm(y, get("norm.weight"), get("norm.bias"))
    y = gelu(y @ get("pwconv1.weight").T + get("pwconv1.bias"))
    if f"{name}.grn.gamma" in arrays:
        y = grn(y, get("grn.gamma"), get("grn.beta"))
    y = y @ get("pwconv2.weight").T + get("pwconv2.bias")
    if f"{name}.gamma" in arrays:
        y = y * get("gamma")
    if keep_N is not None:
        y = y * keep_N[:, None, None, None]
    return x_NCHW + _first(y)


def features(
    x_NHWC: np.ndarray, arrays: Arrays, depths: tuple[int, ...], keep_NB: np.ndarray | None = None
) -> np.ndarray:
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return layer_norm(x, wide[f"{name}.weight"], wide[f"{name}.bias"])

    x, index = _first(x_NHWC.astype(np.float64)), 0
    for stage, depth in enumerate(depths):
        name = f"downsample_layers.{stage}"
        if stage == 0:
            x = conv(x, wide[f"{name}.0.weight"], wide[f"{name}.0.bias"], stride=4)
            x = _first(norm(_last(x), f"{name}.1"))
        else:
            x = _first(norm(_last(x), f"{name}.0"))
            x = conv(x, wide[f"{name}.1.weight"], wide[f"{name}.1.bias"], stride=2)
        for number in range(depth):
            x = block(x, wide, f"stages.{stage}.{number}", None if keep_NB is None else keep_NB[:, index])
            index += 1
    return norm(x.mean((2, 3)), "norm")


def logits(
    x_NHWC: np.ndarray, arrays: Arrays, depths: tuple[int, ...], keep_NB: np.ndarray | None = None
) -> np.ndarray:
    return features(x_NHWC, arrays, depths, keep_NB) @ arrays["head.weight"].astype(np.float64).T + arrays["head.bias"]
