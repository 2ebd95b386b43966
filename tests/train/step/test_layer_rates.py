"""Layer-wise rates against the groups that ConvNeXt's and ConvNeXt V2's own code gives."""

import pytest

from convnext_imagenet.model.convnext import VARIANTS, parameter_shapes
from convnext_imagenet.train.step.parameters import layer_factors

TINY, BASE = VARIANTS["convnext_tiny"], VARIANTS["convnext_base"]

# Facebook's name, group of twelve (ConvNeXt-B), group by block (ConvNeXt-T).
GROUPS = [
    ("downsample_layers.0.0.weight", 0, 1),
    ("downsample_layers.1.0.bias", 2, 4),
    ("downsample_layers.2.1.weight", 3, 7),
    ("downsample_layers.3.1.bias", 12, 16),
    ("stages.0.2.gamma", 1, 3),
    ("stages.1.0.dwconv.weight", 2, 4),
    ("stages.2.0.pwconv1.weight", 3, 7),
    ("stages.2.8.norm.weight", 5, 15),
    ("stages.3.1.pwconv2.bias", 12, 17),
    ("norm.weight", 13, 19),
    ("head.bias", 13, 19),
]


@pytest.mark.parametrize(("name", "twelve", "block"), GROUPS)
def test_groups_are_facebooks(name: str, twelve: int, block: int) -> None:
    assert layer_factors([name], 0.7, "twelve", BASE.depths)[name] == pytest.approx(0.7 ** (13 - twelve))
    assert layer_factors([name], 0.9, "blocks", TINY.depths)[name] == pytest.approx(0.9 ** (19 - block))


# The twelve groups as optim_factory states them: of stems and down-samplers, and of each stage's blocks.
DOWNSAMPLERS = {"downsample_layers.0": 0, "downsample_layers.1": 2, "downsample_layers.2": 3, "downsample_layers.3": 12}
STAGES = {"stages.0": lambda k: 1, "stages.1": lambda k: 2, "stages.2": lambda k: 3 + k // 3, "stages.3": lambda k: 12}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_of_every_variant_has_the_rate_of_its_group(variant: str) -> None:
    network = VARIANTS[variant]
    found = layer_factors(parameter_shapes(network), 0.5, "twelve", network.depths)
    assert len(found) == len(parameter_shapes(network))
    for name, factor in found.items():
        place, part = name.split("."), ".".join(name.split(".")[:2])
        group = STAGES[part](int(place[2])) if part in STAGES else DOWNSAMPLERS.get(part, 13)
        assert factor == 0.5 ** (13 - group), name


def test_the_third_stage_of_a_deep_network_has_groups_of_three_blocks() -> None:
    name = "stages.2.26.gamma"
    assert layer_factors([name], 0.5, "twelve", BASE.depths)[name] == 0.5 ** (13 - 11)


@pytest.mark.parametrize("variant", ["convnext_tiny", "convnext_base", "convnextv2_atto"])
@pytest.mark.parametrize("groups", ["twelve", "blocks"])
def test_every_parameter_has_a_factor_and_no_decay_changes_nothing(variant: str, groups: str) -> None:
    network = VARIANTS[variant]
    names = list(parameter_shapes(network))
    factors = layer_factors(names, 0.8, groups, network.depths)
    assert list(factors) == names
    assert all(0 < factor <= 1 for factor in factors.values())
    assert factors["head.weight"] == 1
    assert set(layer_factors(names, 1.0, groups, network.depths).values()) == {1.0}


def test_a_strange_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fc1\.weight"):
        layer_factors(["fc1.weight"], 0.8, "twelve", TINY.depths)
