"""The CPU kernels compute what the float64 reference and MindSpore's own operators compute, forward and back."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from convnext_imagenet.model.blocks import EXPANSION, Block
from convnext_imagenet.model.convnext import VARIANTS, ConvNeXt
from convnext_imagenet.model.cpu_blocks import CpuBlock
from convnext_imagenet.model.kernels.build import FLAGS, SOURCES, find_compiler, kernels_library
from convnext_imagenet.model.kernels.operators import (
    DepthwiseKernel,
    GeluKernel,
    LayerNormKernel,
    NormPatchKernel,
    PatchKernel,
)
from convnext_imagenet.model.weights import assign_parameters

WIDTHS = sorted({dim for config in VARIANTS.values() for dim in config.dims})
SIZES = (7, 9, 12, 14, 28, 33, 56)
_PERIOD = 65_521  # random values repeat after a prime number: no two rows are equal, and 32 million cost nothing


@pytest.fixture(scope="module")
def library() -> Path:
    path = kernels_library()
    if path is None:
        pytest.skip("no kernels on this machine: no compiler, or another processor")
    return path


@pytest.fixture(scope="module")
def avx2_library(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sources for a processor without AVX-512."""
    path = tmp_path_factory.mktemp("avx2") / "kernels.so"
    flags = ["-march=haswell" if flag == "-march=native" else flag for flag in FLAGS]
    subprocess.run([*find_compiler(), *flags, *map(str, SOURCES.glob("*.cpp")), "-o", str(path)], check=True)
    return path


class _Slope(nn.Cell):
    """A scalar of a cell's output, so that its gradients can be asked for, and the output."""

    def __init__(self, cell: nn.Cell, slope: np.ndarray) -> None:
        super().__init__(auto_prefix=False)
        self.cell = cell
        self.slope = Tensor(slope)

    def construct(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        out = self.cell(*inputs)
        return (out * self.slope).sum(), out


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _values_and_gradients(
    cell: nn.Cell, inputs: list[np.ndarray], shape: tuple[int, ...]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The cell's output of `shape`, and its gradients for the inputs and the cell's parameters."""
    tensors = [Tensor(array) for array in inputs]
    cell.set_train(True)
    slope = np.random.default_rng(9).standard_normal(shape).astype(np.float32)
    weights = ms.ParameterTuple(list(cell.get_parameters()))
    step = ms.value_and_grad(_Slope(cell, slope), tuple(range(len(tensors))), weights, has_aux=True)
    (_, out), (of_inputs, of_weights) = step(*tensors)
    of_inputs = of_inputs if isinstance(of_inputs, tuple) else (of_inputs,)
    return out.asnumpy(), [gradient.asnumpy() for gradient in (*of_inputs, *of_weights)]


def _filled(block: Block, seed: int) -> Block:
    rng = np.random.default_rng(seed)
    for name, parameter in block.parameters_and_names():
        centre = 1.0 if name.endswith(("norm.weight", "gamma")) else 0.0
        scale = 0.5 / np.sqrt(np.prod(parameter.shape[1:])) if len(parameter.shape) > 1 else 0.2
        values = (centre + scale * rng.standard_normal(_PERIOD)).astype(np.float32)
        parameter.set_data(Tensor(np.resize(values, parameter.shape)))
    return block


def _compare_blocks(library: Path, dim: int, grn: bool, shape: tuple[int, int, int]) -> None:
    x_NHWC = np.random.default_rng(dim).standard_normal((*shape, dim)).astype(np.float32)
    keep_N = np.array([1.25, 0.0, 1.0, 1.25][: shape[0]], np.float32)
    ours, theirs = (
        _values_and_gradients(_filled(cell, seed=dim), [x_NHWC, keep_N], x_NHWC.shape)
        for cell in (CpuBlock(dim, grn, library), Block(dim, grn))
    )
    assert _error(ours[0], theirs[0]) < 1e-5
    # The gradient of keep_N, the second input, is nobody's: drop path is drawn, not learned.
    for index in (0, *range(2, len(theirs[1]))):
        assert _error(ours[1][index], theirs[1][index]) < 1e-4, f"gradient {index}"


@pytest.mark.parametrize(("size", "batch"), [(7, 1), (9, 2), (12, 3), (14, 2)])
def test_v1_blocks_match_mindspore_at_odd_sizes(library, size, batch):
    _compare_blocks(library, 40, grn=False, shape=(batch, size, size))


@pytest.mark.slow
@pytest.mark.parametrize("size", [28, 33, 56])
def test_v1_blocks_match_mindspore_at_large_sizes(library, size):
    _compare_blocks(library, 96, grn=False, shape=(1, size, size))


@pytest.mark.parametrize("shape", [(2, 7, 5)])
def test_v2_blocks_match_mindspore(library, shape):
    _compare_blocks(library, 40, grn=True, shape=shape)


@pytest.mark.parametrize("dim", WIDTHS)
def test_blocks_of_every_width_match_the_reference(library, reference, dim):
    """Float64, inference and drop path; a row of positions keeps the widest ones cheap."""
    block = _filled(CpuBlock(dim, False, library), seed=dim)
    block.set_train(False)
    x_NHWC = np.random.default_rng(dim).standard_normal((1, 2, 3, dim)).astype(np.float32)
    arrays = {name: parameter.asnumpy().astype(np.float64) for name, parameter in block.parameters_and_names()}
    x_NCHW = x_NHWC.astype(np.float64).transpose(0, 3, 1, 2)
    d = reference.depthwise(x_NCHW, arrays["dwconv.weight"], arrays["dwconv.bias"]).transpose(0, 2, 3, 1)
    normed = (d - d.mean(-1, keepdims=True)) / np.sqrt(d.var(-1, keepdims=True) + 1e-6)
    normed = normed * arrays["norm.weight"] + arrays["norm.bias"]
    hidden = reference.gelu(normed @ arrays["pwconv1.weight"].T + arrays["pwconv1.bias"])
    assert hidden.shape[-1] == EXPANSION * dim
    branch = hidden @ arrays["pwconv2.weight"].T + arrays["pwconv2.bias"]
    expected = x_NHWC + arrays["gamma"] * branch
    assert _error(block(Tensor(x_NHWC)).asnumpy(), expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("grn", [False, True])
def test_blocks_built_for_avx2_match_mindspore(library, avx2_library, grn):
    _compare_blocks(avx2_library, 40, grn, shape=(2, 9, 14))


def _random(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_depthwise_matches_the_reference(library, reference, size):
    x_NHWC, weight, bias = _random(1, size, size, 24), _random(24, 1, 7, 7), _random(24)
    found = DepthwiseKernel(library)(*map(Tensor, (x_NHWC, weight, bias))).asnumpy()
    expected = reference.depthwise(x_NHWC.astype(np.float64).transpose(0, 3, 1, 2), weight, bias)
    assert _error(found, expected.transpose(0, 2, 3, 1)) < 1e-5


def test_gelu_is_exact_from_end_to_end(library, reference):
    x = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -0.0, 1e-30, -40.0, 40.0]]).astype(np.float32)
    found = GeluKernel(library)(Tensor(x)).asnumpy()
    assert np.abs(found - reference.gelu(x.astype(np.float64))).max() < 1e-6
    slope = ms.grad(GeluKernel(library))(Tensor(x)).asnumpy()
    step = 1e-5
    wide = x.astype(np.float64)
    expected = (reference.gelu(wide + step) - reference.gelu(wide - step)) / (2 * step)
    assert np.abs(slope - expected).max() < 1e-5


@pytest.mark.parametrize("shape", [(2, 9, 10, 3), (1, 8, 8, 40)])
def test_patch_products_match_mindspore(library, shape):
    from convnext_imagenet.model.layers import LayerNorm, PatchConv

    channels = shape[-1]
    x, norm, norm_bias = _random(*shape), 1 + _random(channels, seed=4) / 4, _random(channels, seed=5)
    weight, bias = _random(16, channels, 2, 2, seed=6), _random(16, seed=7)
    layer, patch = LayerNorm(channels), PatchConv(channels, 16, 2)
    for parameter, value in ((layer.weight, norm), (layer.bias, norm_bias), (patch.weight, weight), (patch.bias, bias)):
        parameter.set_data(Tensor(value))
    assert _error(PatchKernel(library)(*map(Tensor, (x, weight, bias))).asnumpy(), patch(Tensor(x)).asnumpy()) < 1e-5
    both = NormPatchKernel(library)(*map(Tensor, (x, norm, norm_bias, weight, bias))).asnumpy()
    assert _error(both, patch(layer(Tensor(x))).asnumpy()) < (1e-4 if channels == 3 else 1e-5)
    alone = LayerNormKernel(library)(*map(Tensor, (x, norm, norm_bias))).asnumpy()
    assert _error(alone, layer(Tensor(x)).asnumpy()) < (1e-4 if channels == 3 else 1e-5)


@pytest.mark.parametrize("grn", [False, True])
def test_whole_networks_match_mindspore(library, make_config: Callable, make_arrays: Callable, grn: bool):
    config = make_config(grn=grn)
    arrays = make_arrays(config)
    x = [_random(3, 36, 32, 3)]
    results = []
    for kernels in (library, None):
        network = ConvNeXt(config, kernels)
        assign_parameters(network, arrays)
        results.append(_values_and_gradients(network, x, (3, config.num_classes)))
    assert _error(results[0][0], results[1][0]) < 1e-5
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        assert _error(ours, theirs) < 1e-4


def test_parameters_have_the_same_names_on_both_paths(library, make_config: Callable):
    config = dataclasses.replace(make_config(), depths=(1, 1, 1, 1))
    names = [[name for name, _ in ConvNeXt(config, kernels).parameters_and_names()] for kernels in (library, None)]
    assert names[0] == names[1]


_REPEAT = """
import hashlib, sys
import numpy as np
from convnext_imagenet.model.runtime import prepare
prepare()
import mindspore as ms
from convnext_imagenet.model.convnext import ConvNeXt, ConvNeXtConfig, init_parameters
from convnext_imagenet.model.runtime import cpu_kernels
from convnext_imagenet.model.weights import assign_parameters
config = ConvNeXtConfig("small", (1, 1, 1, 1), (24, 40, 48, 56), num_classes=5, layer_scale_init=1.0)
network = ConvNeXt(config, cpu_kernels())
assign_parameters(network, init_parameters(config, 0))
network.set_train(True)
x = ms.Tensor(np.random.default_rng(0).standard_normal((5, 64, 64, 3)).astype("f"))
def loss_of(x):
    y = network(x)
    return (y * y).sum()
grad = ms.value_and_grad(loss_of, None, ms.ParameterTuple(network.trainable_params()))
digest = hashlib.sha256()
loss, gradients = grad(x)
for tensor in (loss, *gradients):
    digest.update(tensor.asnumpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_bits_repeat_from_process_to_process(library, tmp_path):
    program = tmp_path / "repeat.py"  # a file, since MindSpore reads the source of what it compiles
    program.write_text(_REPEAT)

    def run() -> str:
        return subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True).stdout

    assert len({run(), run()}) == 1


def test_a_parameter_is_not_copied_by_name_only(library):
    """The kernels read the parameter's memory: a new value is seen without compiling again."""
    weight = Parameter(Tensor(np.zeros((8, 1, 7, 7), np.float32)), name="weight")
    kernel = DepthwiseKernel(library)
    x, bias = Tensor(_random(1, 8, 8, 8)), Tensor(np.zeros(8, np.float32))
    assert not kernel(x, weight, bias).asnumpy().any()
    weight.set_data(Tensor(_random(8, 1, 7, 7)))
    assert kernel(x, weight, bias).asnumpy().any()
