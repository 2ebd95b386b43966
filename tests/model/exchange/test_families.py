"""Every public ConvNeXt, by names and shapes that the libraries made themselves: read, or refused for a true reason.

`golden/layouts.json.xz` is made by tests/parity/make_layouts.py. The table in docs/weights-families.md is what this
test found; `.venv/bin/python tests/model/exchange/test_families.py` writes it again.
"""

import json
import lzma
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange import import_names
from convnext_imagenet.model.exchange.foreign_network import is_clip_projection, read_stated
from convnext_imagenet.model.exchange.foreign_preprocessing import CLIP_MEAN, find_transform
from convnext_imagenet.model.exchange.import_names import Translation, recognise_scheme, translate
from convnext_imagenet.model.exchange.licences import find_licence

HERE = Path(__file__).resolve().parent
LAYOUTS = json.loads(lzma.decompress((HERE / "golden" / "layouts.json.xz").read_bytes()))
PAGE = HERE.parents[2] / "docs" / "weights-families.md"
BEGIN, END = "<!-- made by tests/model/exchange/test_families.py -->\n", "<!-- end -->\n"
ONE = np.float32(1)


def read(name: str, folder: Path) -> tuple[Translation, Path, dict]:
    """What an import makes of a layout, without its values."""
    entry = LAYOUTS[name]
    path = folder / f"{name.split()[-1].removesuffix('.pth').removesuffix('.pt')}.safetensors"
    if entry["config"]:
        (folder / "config.json").write_text(json.dumps(entry["config"]))
    tensors = {tensor: np.broadcast_to(ONE, shape) for tensor, shape in entry["shapes"].items()}
    if is_clip_projection(path.stem) and "head.fc.bias" in tensors:
        tensors["head.fc.bias"] = np.zeros(entry["shapes"]["head.fc.bias"], np.float32)  # as timm makes it
    scheme = recognise_scheme(tensors, "file")
    stated = read_stated(path, scheme)
    return translate(tensors, scheme, "file", stated=stated), path, dict(stated.settings or {})


@pytest.fixture(autouse=True)
def _no_values(monkeypatch) -> None:
    monkeypatch.setattr(import_names, "_as_float32", lambda name, array, what: array)  # gigabytes otherwise


def outcome(name: str) -> str:
    """The row of the table: what an import makes of a file, or why it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            made, path, settings = read(name, Path(folder))
        except ModelError as error:
            reason = str(error).split("another network than ConvNeXt: ")[-1].split("; give")[0]
            if "head.pre_logits" in reason:
                reason = "a head of two layers; as features with `--no-head`"
            if "activation" in reason:
                reason = reason.rsplit("(", 1)[-1].rstrip(")")
            return f"refused: {reason}"
        transform, _ = find_transform(path, made.scheme.name, made.outputs)
        licence = find_licence(path, made.scheme.name, settings, made.config.grn).name
    config = made.config
    said = f"classifier, {config.num_classes:,} classes" if config.num_classes else "features"
    said += ", projection left out" if any("projection" in remark for remark in made.remarks) else ""
    said += ", new last norm" if any("no last norm" in remark for remark in made.remarks) else ""
    if not config.has_usual_functions:
        said += f", epsilon {config.norm_epsilon:g}, last norm {config.head_norm_epsilon:g}"
        said += "" if config.activation == "gelu" else ", GELU by tanh"
    said += ", CLIP's mean" if transform.mean == CLIP_MEAN else ""
    return f"{said}; {licence}"


def table() -> str:
    """The table of the page: names of one program and network with the same outcome share a row."""
    groups = defaultdict(list)
    for name in LAYOUTS:
        program, rest = name.split(" ", 1)
        network, _, tag = rest.partition(".") if program == "timm" else (rest, "", "")
        groups[program, outcome(name), network].append(tag)
    merged = defaultdict(list)
    for (program, found, network), tags in groups.items():
        merged[program, found, tuple(sorted(tags))].append(network)
    rows = []
    for (program, found, tags), networks in sorted(merged.items(), key=lambda pair: (pair[0][0], pair[1])):
        names = ", ".join(f"`{network}`" for network in sorted(networks))
        rows.append(f"| {program} | {names} | {', '.join(filter(None, tags)) or '-'} | {found} |")
    return "\n".join(["| program | network | weights | read as; licence |", "|---|---|---|---|", *rows]) + "\n"


def test_the_page_says_what_is_read():
    assert len([name for name in LAYOUTS if name.startswith("timm ")]) == 101
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm convnext_base.clip_laion2b", "features, projection left out, CLIP's mean"),
        ("timm convnext_base.clip_laion2b_augreg_ft_in12k", "classifier, 11,821 classes, CLIP's mean"),
        ("timm convnext_tiny.dinov3_lvd1689m", "features; dinov3-license"),
        ("timm convnext_tiny_hnf.a2h_in1k", "refused: _hnf"),
        ("timm convnext_nano_ols.d1h_in1k", "refused: _ols"),
        ("timm convnext_zepto_rms.ra4_e3600_r224_in1k", "refused: _rms"),
        ("timm test_convnext.r160_in1k", "classifier, 1,000 classes, epsilon 1e-05, last norm 1e-05, GELU by tanh"),
        ("timm test_convnext3.r160_in1k", "refused"),
        ("timm convnext_xxlarge.clip_laion2b_soup_ft_in1k", "classifier, 1,000 classes, epsilon 1e-05"),
        ("timm convnextv2_atto.fcmae", "features, new last norm; cc-by-nc-4.0"),
        ("transformers DINOv3ConvNextModel", "features"),
        ("transformers ConvNextV2ForImageClassification", "classifier, 1,000 classes, epsilon 1e-06, last norm 1e-12"),
        ("eupe EUPE-ConvNeXt-T.pt", "features; fair-noncommercial-research-license"),
        ("openclip convnext_xxlarge", "features, epsilon 1e-05"),
    ],
)
def test_a_family_is_what_its_makers_say(name, expected):
    assert outcome(name).startswith(expected)


if __name__ == "__main__":
    import_names._as_float32 = lambda name, array, what: array
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    PAGE.write_text(before + table() + after)
    sys.exit()
