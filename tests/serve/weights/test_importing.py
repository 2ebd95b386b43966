"""`convnext-serve weights import`: what becomes of good files, and that bad ones leave nothing behind."""

import dataclasses
import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.exchange.naming import export_arrays, scheme_named
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import load_weights, save_weights
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.checkpoint import check_classes, load_checkpoint
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.settings import TransformOptions
from convnext_imagenet.serve.weights.export_formats import ExportOptions
from convnext_imagenet.serve.weights.exporting import export_weights
from convnext_imagenet.serve.weights.importing import ImportOptions, import_weights

from ..conftest import build_records, class_table, picture

CONFIG = ConvNeXtConfig("convnext_unnamed", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=7)


def write_timm(path: Path, classes: int = 7, **changes) -> Path:
    """A file as timm writes it; `changes` replace tensors, None leaves one out."""
    config = dataclasses.replace(CONFIG, num_classes=classes)
    theirs = export_arrays(init_parameters(config, 5), config, scheme_named("timm"))
    theirs = {name: array for name, array in (theirs | changes).items() if array is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(theirs, metadata={"format": "pt"}))
    return path


@pytest.fixture
def source(tmp_path) -> Path:
    return write_timm(tmp_path / "timm" / "model.safetensors")


def run(*args) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["weights", "import", *map(str, args)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refusal(tmp_path, *args) -> str:
    """The one line with which the command refuses; nothing is left beside or under the name."""
    out = tmp_path / "out" / "ours.safetensors"
    out.parent.mkdir(exist_ok=True)
    code, said, error = run(*args, "--out", out)
    assert (code, said, error.count("\n")) == (1, "", 1)
    assert list(out.parent.iterdir()) == []
    return error


def test_the_command_says_what_it_made_and_why(tmp_path, source):
    out = tmp_path / "ours.safetensors"
    code, said, error = run(source, "--out", out)
    assert (code, error) == (0, f"Next: convnext-serve predict {out} IMAGES --out PREDICTIONS\n")
    assert said.splitlines() == [
        f"{source}: ConvNeXt V1 (depths (1, 1, 1, 1), dims (8, 16, 24, 32)) with 7 classes, timm's names, 56 tensors",
        "functions: exact GELU, LayerNorm's epsilon 1e-06",
        "classes: 7 without names; `eval` needs names: pass --classes RECORDS or a list",
        "evaluation transform: short side resized to 256 px, bicubic, centre crop 224 px, mean 0.485 0.456 0.406, "
        "std 0.229 0.224 0.225 (the usual 224 px, as nothing beside it or in its name tells another)",
        "licence: not stated (neither the file nor what lies beside it tells; ask where you got it)",
        f"{out}: written",
    ]


def _export(tmp_path: Path, names: str, **changes) -> tuple[Path, ModelCard]:
    """A network that knows its input, classes and licence, and functions of another program, exported."""
    licence = {
        "file": "a.pth",
        "licence": "cc-by-nc-4.0",
        "licence_from": "README.md beside it",
        "licence_words": "Nc.",
    }
    config = dataclasses.replace(CONFIG, head_norm_epsilon=1e-12, activation="gelu_tanh", **changes)
    classes = class_table(config.num_classes)
    card = ModelCard(config, classes, EvalTransform(size_px=96, std=(0.5, 0.5, 0.5)), {"licences": [licence]})
    save_weights(tmp_path / "own.safetensors", init_parameters(config, 5), card)
    out = tmp_path / "theirs.safetensors"
    export_weights(load_checkpoint(tmp_path / "own.safetensors"), out, ExportOptions("safetensors", names=names))
    return out, card


@pytest.mark.parametrize("names", ["timm", "facebook"])
@pytest.mark.parametrize("classes", [7, 1000, 0])
def test_an_export_of_ours_comes_back_with_input_classes_functions_and_licence(tmp_path, names, classes):
    source, card = _export(tmp_path, names, num_classes=classes)
    (tmp_path / "config.json").write_text('{"architecture": "convnext_tiny", "num_classes": 3}')  # of another network
    lines = import_weights(source, tmp_path / "back.safetensors", ImportOptions()).lines
    arrays, found = load_weights(tmp_path / "back.safetensors")
    assert (found.config, found.classes, found.transform) == (card.config, card.classes, card.transform)
    assert all(arrays[name].tobytes() == array.tobytes() for name, array in init_parameters(card.config, 5).items())
    assert "licence: cc-by-nc-4.0 (the model card in the file). Nc." in lines
    assert f"classes: {classes} of the model card in the file" in lines or not classes


def test_an_export_that_was_changed_is_refused_and_options_win(tmp_path):
    source, _ = _export(tmp_path, "timm")
    card = import_weights(source, tmp_path / "a", ImportOptions(transform=TransformOptions(size_px=64))).card
    assert (card.transform.size_px, card.transform.std) == (64, (0.5, 0.5, 0.5))
    with safetensors.safe_open(source, framework="numpy") as file:
        stated, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors |= {name: tensors[name][:3] for name in ("head.fc.weight", "head.fc.bias")}
    source.write_bytes(safetensors.numpy.save(tensors, metadata=stated))
    assert (
        "are ConvNeXt V1 (depths (1, 1, 1, 1), dims (8, 16, 24, 32)) with 3 classes, but the model card in"
        in refusal(tmp_path, source)
    )


def test_the_checkpoint_is_the_file_with_its_provenance(tmp_path, source):
    out = tmp_path / "ours.safetensors"
    import_weights(source, out, ImportOptions())
    arrays, card = load_weights(out)
    expected = init_parameters(CONFIG, 5)
    assert all(arrays[name].tobytes() == array.tobytes() for name, array in expected.items())
    assert card.config == CONFIG
    assert card.provenance["imported"] == {
        "file": "model.safetensors",
        "sha256": sha256_file(source),
        "scheme": "timm",
        "weights": "raw",
        "head": "from the file",
        "transform": "the usual 224 px, as nothing beside it or in its name tells another",
        "licence": "not stated",
        "licence_from": "neither the file nor what lies beside it tells; ask where you got it",
        "licence_words": "",
    }


def test_the_same_import_again_is_no_error_and_another_one_is(tmp_path, source):
    out = tmp_path / "ours.safetensors"
    run(source, "--out", out)
    before = out.stat().st_mtime_ns, out.read_bytes()
    code, said, _ = run(source, "--out", out)
    assert (code, said.splitlines()[-1]) == (0, f"{out}: there already with the same bytes")
    code, _, error = run(source, "--out", out, "--size", "288")
    assert (code, error.count("\n")) == (1, 1)
    assert "exists with other content; choose another name" in error
    assert (out.stat().st_mtime_ns, out.read_bytes()) == before


def test_options_change_the_transform_that_was_found(tmp_path, source):
    (source.parent / "config.json").write_text(
        json.dumps({"input_size": [3, 288, 288], "crop_pct": 0.95, "mean": [0.5] * 3, "std": [0.5] * 3})
    )
    found = import_weights(source, tmp_path / "a", ImportOptions()).card
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    assert found.transform == EvalTransform(288, 0.95, **half)
    code, said, _ = run(source, "--out", tmp_path / "b", "--size", "384", "--crop-pct", "1.0", "--resize", "squash")
    assert code == 0
    assert (
        "the whole image resized to 384 px, bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (config.json beside it, changed"
        in said
    )
    assert load_weights(tmp_path / "b")[1].transform == EvalTransform(384, 1.0, "squash", **half)


def test_a_thousand_outputs_are_imagenets(tmp_path):
    source = write_timm(tmp_path / "w.safetensors", classes=1000)
    imported = import_weights(source, tmp_path / "ours", ImportOptions())
    assert imported.card.classes[0] == ("n01440764", "tench, Tinca tinca")
    assert "classes: the 1000 of ILSVRC2012, because the file has 1000 outputs" in imported.lines


@pytest.fixture
def listed(tmp_path) -> Path:
    (tmp_path / "classes.txt").write_text("".join(f"n{index:08d} name {index}\n" for index in range(7)))
    return tmp_path / "classes.txt"


def test_classes_come_from_a_list(tmp_path, source, listed):
    card = import_weights(source, tmp_path / "ours", ImportOptions(classes=listed)).card
    assert card.classes[6] == ("n00000006", "name 6")


@pytest.fixture
def records(tmp_path) -> Path:
    return build_records(tmp_path / "records", [picture(0)], [0])


def test_classes_come_from_records_and_eval_accepts_them(tmp_path, source, records):
    import_weights(source, tmp_path / "ours", ImportOptions(classes=records))
    check_classes(load_checkpoint(tmp_path / "ours"), Records.open(records).classes, records)


def test_eval_refuses_classes_without_names(tmp_path, source, records):
    import_weights(source, tmp_path / "ours", ImportOptions())
    with pytest.raises(ServeError, match=r"has 7 classes without wnids.*import the weights again with --classes"):
        check_classes(load_checkpoint(tmp_path / "ours"), Records.open(records).classes, records)


def test_a_list_of_another_length_is_refused(tmp_path, listed):
    source = write_timm(tmp_path / "w.safetensors", classes=1000)
    message = refusal(tmp_path, source, "--classes", listed)
    assert f"its classifier has 1,000 outputs, but {listed} lists 7 classes; pass a list of 1000" in message


def test_a_fresh_head_is_for_the_classes_that_are_named(tmp_path, listed):
    source = write_timm(tmp_path / "w.safetensors", classes=21)
    imported = import_weights(source, tmp_path / "ours", ImportOptions(classes=listed, fresh_head=True))
    assert len(imported.card.classes) == imported.card.config.num_classes == 7
    assert imported.card.provenance["imported"]["head"] == "new"
    assert "the classifier is new and untrained: fine-tune it by `convnext-train run --init-from`" in imported.lines
    assert "pass --classes, too" in refusal(tmp_path, source, "--fresh-head")


@pytest.mark.parametrize("without", [(), ("head.fc.weight", "head.fc.bias")], ids=["with a head", "features alone"])
def test_a_fresh_head_keeps_the_transform_that_timms_config_states(tmp_path, listed, without):
    source = write_timm(tmp_path / "timm" / "w.safetensors", classes=21, **dict.fromkeys(without))
    told = {"input_size": [3, 256, 256], "crop_pct": 1.0, "mean": [0.48] * 3, "std": [0.25] * 3}
    config = {"num_classes": 0 if without else 21, "pretrained_cfg": told}
    (source.parent / "config.json").write_text(json.dumps(config))
    transform = import_weights(source, tmp_path / "ours", ImportOptions(classes=listed, fresh_head=True)).card.transform
    assert (transform.size_px, transform.crop_pct, transform.mean) == (256, 1.0, (0.48,) * 3)


def test_a_crop_of_what_is_squashed_is_refused(tmp_path):
    source = write_timm(tmp_path / "w_384.safetensors")
    assert "--crop-pct: squash resizes the whole image and crops nothing" in refusal(
        tmp_path, source, "--crop-pct", "0.875"
    )
    code, said, _ = run(source, "--out", tmp_path / "ours", "--crop-pct", "0.875", "--resize", "crop")
    assert (code, "changed by options" in said) == (0, True)


def test_a_checkpoint_of_ours_is_refused_before_its_card_is_lost(tmp_path, source):
    import_weights(source, tmp_path / "ours", ImportOptions())
    assert "already a checkpoint of this program; use it as it is" in refusal(tmp_path, tmp_path / "ours")


def test_the_average_is_taken_and_said(tmp_path):
    names = scheme_named("example")
    arrays = {names.theirs(name): array for name, array in init_parameters(CONFIG, 5).items()}
    arrays |= {f"ema.{name}": array + np.float32(1) for name, array in arrays.items()}
    ms.save_checkpoint([{"name": n, "data": ms.Tensor(a)} for n, a in arrays.items()], str(tmp_path / "w.ckpt"))
    imported = import_weights(tmp_path / "w.ckpt", tmp_path / "ours", ImportOptions())
    assert imported.card.provenance["imported"]["weights"] == "ema"
    assert load_weights(tmp_path / "ours")[0]["head.bias"].tolist() == [1.0] * 7
    assert any("took the moving average (--use raw takes the other set)" in line for line in imported.lines)
    assert any("nn.GELU" in line for line in imported.lines)
    import_weights(tmp_path / "w.ckpt", tmp_path / "raw", ImportOptions(use="raw"))
    assert load_weights(tmp_path / "raw")[0]["head.bias"].tolist() == [0.0] * 7


def test_an_average_that_only_names_tell_of_is_taken_and_said(tmp_path, listed):
    arrays = init_parameters(CONFIG, 5)
    average = {f"ema_model.module.{name}": array + np.float32(1) for name, array in arrays.items()}
    both = average | {f"model.{name}": array for name, array in arrays.items()}
    (tmp_path / "both").write_bytes(safetensors.numpy.save(both))
    (tmp_path / "one").write_bytes(safetensors.numpy.save(average))
    for use, kept, bias in ((None, "ema", 1.0), ("ema", "ema", 1.0), ("raw", "raw", 0.0)):
        out = tmp_path / f"{use}.safetensors"
        imported = import_weights(tmp_path / "both", out, ImportOptions(use=use, classes=listed))
        assert imported.card.provenance["imported"]["weights"] == kept
        assert load_weights(out)[0]["head.bias"].tolist() == [bias] * 7
        assert any("the file holds two sets of weights" in line for line in imported.lines)
    assert (
        import_weights(tmp_path / "one", tmp_path / "o", ImportOptions()).card.provenance["imported"]["weights"]
        == "ema"
    )
    assert "holds only a moving average of the weights; pass --use ema" in refusal(
        tmp_path, tmp_path / "one", "--use", "raw"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--from", "facebook"], "its names are timm's, not those of facebook"),
        (["--use", "ema"], "holds no moving average of the weights; pass --use raw"),
        (["--classes", "absent.txt"], "absent.txt: cannot be read as a list of classes"),
    ],
)
def test_wishes_that_the_file_does_not_fulfil_are_refused(tmp_path, source, options, expected):
    assert expected in refusal(tmp_path, source, *options)


def test_records_that_are_none_are_refused(tmp_path, source):
    (tmp_path / "folder").mkdir()
    refusal(tmp_path, source, "--classes", tmp_path / "folder")


def test_bad_files_leave_nothing(tmp_path, source):
    whole = source.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for content in (b"", whole[:-5], whole[:20], b"<html>", b"hello\n"):
        bad.write_bytes(content)
        assert "bad.safetensors: " in refusal(tmp_path, bad)
    write_timm(bad, **{"head.fc.bias": None})
    assert "1 missing (head.fc.bias)" in refusal(tmp_path, bad)
    assert "a folder" in refusal(tmp_path, tmp_path)


def test_a_full_disk_leaves_nothing(small_disk, tmp_path):
    source = write_timm(tmp_path / "w.safetensors", classes=1000)
    (small_disk / "ballast").write_bytes(bytes((16 << 20) - (60 << 10)))
    code, _, error = run(source, "--out", small_disk / "ours")
    assert (code, error.count("\n")) == (74, 1)
    assert "cannot be written" in error
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
