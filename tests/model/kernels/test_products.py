"""Products in bfloat16, and packed weights: against float64, their twins, and each row by itself."""

import ctypes
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from convnext_imagenet.model import weights
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import VARIANTS, ConvNeXt, ConvNeXtConfig, init_parameters
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.kernels import products
from convnext_imagenet.model.kernels.build import network_library
from convnext_imagenet.model.kernels.products import Unit, choose_unit, is_supported
from convnext_imagenet.model.packed_network import PackedConvNeXt
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import (
    assign_parameters,
    build_inference_network,
    build_network,
    inference_unit,
)

TWINS = (Unit.AVX512_BF16_TWIN, Unit.AMX_TWIN)
LOW = (Unit.AVX512_BF16, Unit.AMX, *TWINS)
# Odd widths and sizes: not multiples of a tile's depth, a panel, a vector; 12 x 12 pixels are 9 patches, then 1.
CONFIG = ConvNeXtConfig("odd", (1, 1, 1, 1), (24, 40, 72, 104), num_classes=7)


@pytest.fixture(scope="module")
def library() -> Path:
    path = network_library()
    if path is None:
        pytest.skip("no kernels on this machine: no compiler, or another processor")
    return path


@pytest.fixture(params=LOW, ids=lambda unit: unit.name)
def unit(request: pytest.FixtureRequest, library: Path) -> Unit:
    if not is_supported(library, request.param):
        pytest.skip(f"this processor has no {request.param.name}")
    return request.param


def _images(count: int, height: int = 76, width: int = 68, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, height, width, 3)).astype(np.float32)


def _logits(config: ConvNeXtConfig, arrays: dict, library: Path, unit: Unit, x_NHWC: np.ndarray) -> np.ndarray:
    return PackedConvNeXt(config, arrays, library, unit)(Tensor(x_NHWC)).asnumpy()


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _packed_patch(library: Path, x: np.ndarray, packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The operator without MindSpore: x (rows, 1, 1, depth) and packed weights to `shape`."""
    out = np.empty(shape, np.float32)
    pointers = (ctypes.c_void_p * 3)(x.ctypes.data, packed.ctypes.data, out.ctypes.data)
    dims = (ctypes.c_int64 * 4)(*x.shape)
    shapes = (ctypes.c_void_p * 3)(ctypes.addressof(dims), None, None)
    assert ctypes.CDLL(str(library)).convnext_packed_patch(3, pointers, None, shapes, None, None, None) == 0
    return out


@pytest.mark.parametrize("grn", [False, True], ids=["v1", "v2"])
def test_bfloat16_is_near_the_float64_reference(unit, library, reference, make_arrays: Callable, grn):
    """bfloat16 rounds to 2^-9 of a value; float32 on the same kernels is a thousand times nearer."""
    config, x_NHWC = dataclasses.replace(CONFIG, grn=grn), _images(2)
    arrays = make_arrays(config)
    expected = reference.logits(x_NHWC, arrays, config.depths)
    error = _error(_logits(config, arrays, library, unit, x_NHWC), expected)
    assert 1e-4 < error < 2e-2
    assert _error(_logits(config, arrays, library, Unit.FLOAT32, x_NHWC), expected) < 1e-5


@pytest.mark.parametrize("grn", [False, True], ids=["v1", "v2"])
def test_a_rows_logits_depend_on_no_other_row(unit, library, make_arrays: Callable, grn):
    config, x_NHWC = dataclasses.replace(CONFIG, grn=grn), _images(5)
    network = PackedConvNeXt(config, make_arrays(config), library, unit)
    together = network(Tensor(x_NHWC)).asnumpy()
    alone = [network(Tensor(x_NHWC[row : row + 1])).asnumpy()[0] for row in range(5)]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(network(Tensor(x_NHWC[::-1].copy())).asnumpy(), together[::-1])


@pytest.mark.parametrize("twin", TWINS, ids=lambda unit: unit.name)
def test_instructions_and_their_twins_have_the_same_bits(library, make_arrays: Callable, twin):
    native = Unit(twin - 2)
    if not is_supported(library, native):
        pytest.skip(f"this processor has no {native.name}")
    for grn in (False, True):
        config = dataclasses.replace(CONFIG, grn=grn)
        arrays = make_arrays(config)
        np.testing.assert_array_equal(
            _logits(config, arrays, library, native, _images(2)), _logits(config, arrays, library, twin, _images(2))
        )


@pytest.mark.parametrize("twin", TWINS, ids=lambda unit: unit.name)
def test_products_are_exact_where_bfloat16_is(library, twin):
    """A product of whole numbers has no rounding, so every position of the packing is checked."""
    rng = np.random.default_rng(0)
    for rows, depth, out in ((1, 8, 1), (15, 40, 33), (33, 104, 70), (70, 64, 32)):
        x, weight = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((rows, depth), (out, depth)))
        bias = rng.integers(-8, 9, out).astype(np.float32)
        packed = products.pack_patch(library, twin, (weight, bias))
        found = _packed_patch(library, x.reshape(rows, 1, 1, depth), packed, (rows, out))
        np.testing.assert_array_equal(found, x @ weight.T + bias)


@pytest.mark.parametrize("twin", TWINS, ids=lambda unit: unit.name)
def test_values_are_rounded_to_the_nearest_bfloat16(library, twin):
    """To 8 bits of significand, ties to even; a NaN stays one. The weights are the identity."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0x00800000, 0x7F000000, 4096, np.uint32)
    bits[::4] = bits[::4] & 0xFFFF0000 | 0x8000  # ties
    x = bits.view(np.float32).reshape(-1, 32).copy()
    packed = products.pack_patch(library, twin, (np.eye(32, dtype=np.float32), np.zeros(32, np.float32)))
    significand, exponent = np.frexp(x.astype(np.float64))
    expected = np.ldexp(np.round(significand * 256) / 256, exponent)  # NumPy rounds ties to even
    np.testing.assert_array_equal(_packed_patch(library, x.reshape(-1, 1, 1, 32), packed, x.shape), expected)
    x[3, 5] = np.nan
    found = _packed_patch(library, x.reshape(-1, 1, 1, 32), packed, x.shape)
    assert np.isnan(found[3]).all()
    assert not np.isnan(np.delete(found, 3, axis=0)).any()


def test_packed_float32_has_the_bits_of_weights_that_are_packed_on_each_call(library, make_arrays: Callable):
    arrays, x_NHWC = make_arrays(CONFIG), Tensor(_images(3))
    card = ModelCard(CONFIG, tuple((f"n{k:08d}", str(k)) for k in range(7)), EvalTransform(), {})
    packed, live = (build(card, arrays) for build in (build_inference_network, build_network))
    assert isinstance(packed, PackedConvNeXt)
    live.set_train(False)
    np.testing.assert_array_equal(packed(x_NHWC).asnumpy(), live(x_NHWC).asnumpy())


@pytest.mark.parametrize("change", [{"activation": "gelu_tanh"}, {"norm_epsilon": 1e-5}, {"num_classes": 0}])
def test_a_network_with_other_functions_or_no_head_is_never_packed(
    change: dict, library, make_arrays: Callable, monkeypatch, caplog
):
    """The packed kernels know the paper's functions only: with others they would give other numbers."""
    config = dataclasses.replace(CONFIG, **change)
    classes = tuple((f"n{k:08d}", str(k)) for k in range(config.num_classes))
    card, arrays = ModelCard(config, classes, EvalTransform(), {}), make_arrays(config)
    network = build_inference_network(card, arrays)
    assert not isinstance(network, PackedConvNeXt)
    assert network.config == config
    monkeypatch.setattr(products, "is_supported", lambda _, unit: True)
    with pytest.raises(ModelError, match=r"--precision bfloat16: .*; pass --precision float32 or auto"):
        build_inference_network(card, arrays, "bfloat16")
    weights._log_float32.cache_clear()
    with caplog.at_level("INFO", "convnext_imagenet"):
        same = build_inference_network(card, arrays, "auto")
        assert inference_unit(config, "auto", library) is Unit.FLOAT32
    (line,) = [record.getMessage() for record in caplog.records if "--precision" in record.getMessage()]
    assert line.endswith("is computed in float32")
    x_NHWC = Tensor(_images(2))
    np.testing.assert_array_equal(same(x_NHWC).asnumpy(), network(x_NHWC).asnumpy())


def test_the_unit_follows_from_precision_and_processor(library, monkeypatch):
    def with_units(*there: Unit) -> None:
        monkeypatch.setattr(products, "is_supported", lambda _, unit: unit in there)

    with_units()
    assert choose_unit("float32", library) is choose_unit("auto", library) is Unit.FLOAT32
    assert choose_unit("auto", None) is Unit.FLOAT32
    with pytest.raises(ModelError, match="neither AMX nor AVX512-BF16; pass --precision float32"):
        choose_unit("bfloat16", library)
    with pytest.raises(ModelError, match="kernels do not run here; pass --precision float32"):
        choose_unit("bfloat16", None)
    with_units(Unit.AVX512_BF16)
    assert choose_unit("bfloat16", library) is choose_unit("auto", library) is Unit.AVX512_BF16
    with_units(Unit.AVX512_BF16, Unit.AMX)
    assert choose_unit("bfloat16", library) is choose_unit("auto", library) is Unit.AMX
    assert choose_unit("float32", library) is Unit.FLOAT32


class _Slope(nn.Cell):
    """A scalar of a network's output, so that its gradients can be asked for."""

    def __init__(self, network: nn.Cell, slope_NK: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.slope_NK = slope_NK

    def construct(self, x_NHWC: Tensor) -> Tensor:
        return (self.network(x_NHWC) * self.slope_NK).sum()


@pytest.fixture
def low_unit(unit: Unit, library: Path) -> Iterator[Unit]:
    """What the operators of training compute with; afterwards it is the processor's own again."""
    products.choose_low_unit(library, unit)
    yield unit
    products.choose_low_unit(library, None)


@pytest.mark.parametrize("grn", [False, True], ids=["v1", "v2"])
def test_gradients_in_bfloat16_are_near_those_in_float32(low_unit, library, make_arrays: Callable, grn):
    """Every gradient of a whole network; 4 x 3 pixels in the last stage leave odd numbers of rows in every tile."""
    config, x_NHWC = dataclasses.replace(CONFIG, grn=grn), Tensor(_images(3, 132, 100))
    arrays = make_arrays(config)
    slope_NK = Tensor(np.random.default_rng(5).standard_normal((3, 7)).astype(np.float32))
    found = []
    for low in (True, False):
        network = ConvNeXt(config, library, low=low)
        assign_parameters(network, arrays)
        network.set_train(True)
        gradients = ms.grad(_Slope(network, slope_NK), None, ms.ParameterTuple(network.trainable_params()))(x_NHWC)
        found.append({p.name: g.asnumpy() for p, g in zip(network.trainable_params(), gradients, strict=True)})
    for name, exact in found[1].items():
        assert _error(found[0][name], exact) < 6e-2, name
        assert not name.startswith("stages") or _error(found[0][name], exact) > 1e-6, name


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["convnext_atto", "convnext_tiny", "convnextv2_atto"])
def test_published_networks_stay_near_float64(library, reference, variant):
    """The initial weights with layer scale 1, so that every product shows; one image at 96 px."""
    config = dataclasses.replace(VARIANTS[variant], layer_scale_init=1.0)
    arrays = {name: array.copy() for name, array in init_parameters(config, 0).items()}
    rng = np.random.default_rng(2)
    for array in arrays.values():
        if array.ndim > 1:
            array += (rng.standard_normal(array.shape) * 0.5 / np.sqrt(np.prod(array.shape[1:]))).astype(np.float32)
    x_NHWC = _images(1, 96, 96)
    expected = reference.logits(x_NHWC, arrays, config.depths)
    for low in TWINS:
        assert _error(_logits(config, arrays, library, low, x_NHWC), expected) < 2e-2
