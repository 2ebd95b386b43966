"""What CHECKPOINT may mean, and what is refused."""

import mindspore as ms
import numpy as np
import pytest

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.serve.checkpoint import check_classes, load_checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.pointers import resolve_checkpoint
from convnext_imagenet.serve.settings import TransformOptions

from .conftest import SIZE_PX, TRANSFORM, class_table, write_checkpoint


@pytest.fixture
def run(tmp_path):
    """A RUN directory whose best epoch is the first of two."""
    root = tmp_path / "run"
    for epoch in (1, 2):
        path = root / "checkpoints" / f"epoch-000{epoch}.weights.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    (root / "plan.json").write_text("{}")
    (root / "best").write_text("epoch-0001\n")
    return root


def test_a_run_means_its_best_epoch_and_a_file_itself(run):
    best = run / "checkpoints" / "epoch-0001.weights.safetensors"
    assert resolve_checkpoint(run) == best
    assert resolve_checkpoint(best) == best


def test_the_best_may_be_an_average_of_weights(run):
    average = run / "checkpoints" / "epoch-0002.ema.safetensors"
    average.write_bytes(b"average")
    (run / "best").write_text("epoch-0002.ema\n")
    assert resolve_checkpoint(run) == average


@pytest.mark.parametrize("pointer", ["epoch-0001.ema", "epoch-0009", "", "../../elsewhere", "../outside"])
def test_a_pointer_that_leads_nowhere_is_refused(run, pointer):
    (run / "outside.weights.safetensors").write_bytes(b"weights")
    (run / "best").write_text(pointer)
    with pytest.raises(
        ServeError, match=r"best: names .* give a weights file, such as .*epoch-0002\.weights\.safetensors"
    ):
        resolve_checkpoint(run)


def test_a_run_without_best_and_paths_that_are_no_run(run, tmp_path):
    (run / "best").unlink()
    (tmp_path / "empty").mkdir()
    for path, text in ((run, "no epoch has finished"), (tmp_path / "empty", "not a RUN"), (tmp_path / "no", "no such")):
        with pytest.raises(ServeError, match=text):
            resolve_checkpoint(path)


@pytest.mark.parametrize("pointer", ["epoch-0001", "epoch-0001.ema"])
def test_weights_choose_between_the_best_epochs_own_and_their_average(run, pointer):
    raw, average = (run / "checkpoints" / f"epoch-0001.{kind}.safetensors" for kind in ("weights", "ema"))
    average.write_bytes(b"average")
    (run / "best").write_text(f"{pointer}\n")
    assert resolve_checkpoint(run, "best") == (average if pointer.endswith(".ema") else raw)
    assert resolve_checkpoint(run, "raw") == raw
    assert resolve_checkpoint(run, "ema") == average
    assert resolve_checkpoint(raw, "ema") == raw, "a file means itself"


def test_an_average_that_a_run_does_not_keep_is_said(run):
    with pytest.raises(ServeError, match=r"holds no epoch-0001\.ema\.safetensors; the run keeps no moving average"):
        resolve_checkpoint(run, "ema")


def test_weights_behind_another_transform(fake):
    changed = fake.evaluated_with(TransformOptions(size_px=48, crop_pct=1.0, mode=None))
    assert (changed.card.transform.size_px, changed.card.transform.crop_pct) == (48, 1.0)
    assert changed.card.transform.mode == TRANSFORM.mode
    assert changed.card.transform.mean == TRANSFORM.mean
    assert (changed.sha256, changed.arrays, changed.card.classes) == (fake.sha256, fake.arrays, fake.card.classes)
    assert fake.card.transform == TRANSFORM
    assert fake.evaluated_with(TransformOptions()) == fake
    for values in ({"crop_pct": 1.5}, {"size_px": 0}, {"mode": "stretch"}):
        with pytest.raises(ModelError, match="evaluation transform"):
            fake.evaluated_with(TransformOptions(**values))


def test_a_classifier_with_features_gives_the_same_logits(checkpoint_file):
    checkpoint = load_checkpoint(checkpoint_file)
    pixels = ms.Tensor(np.random.default_rng(0).integers(0, 256, (2, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))
    logits_NK = checkpoint.classifier()(pixels).asnumpy()
    same_NK, features_NC = (output.asnumpy() for output in checkpoint.classifier(with_features=True)(pixels))
    np.testing.assert_allclose(same_NK, logits_NK, rtol=0, atol=1e-6 * np.abs(logits_NK).max())
    weight, bias = checkpoint.arrays["head.weight"], checkpoint.arrays["head.bias"]
    assert features_NC.shape == (2, 32)
    np.testing.assert_allclose(features_NC @ weight.T + bias, logits_NK, rtol=0, atol=1e-5 * np.abs(logits_NK).max())


@pytest.mark.parametrize("kept", [0, 5, 300, 20_000, -1])
def test_a_truncated_checkpoint_is_refused(checkpoint_file, tmp_path, kept):
    path = tmp_path / "cut.weights.safetensors"
    path.write_bytes(checkpoint_file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"cut\.weights"):
        load_checkpoint(path)


def test_the_fingerprint_of_the_classes_follows_order_and_names(tmp_path):
    seven = load_checkpoint(write_checkpoint(tmp_path / "a", classes=7))
    six = load_checkpoint(write_checkpoint(tmp_path / "b", classes=6))
    assert seven.classes_sha256 != six.classes_sha256
    assert seven.sha256 != six.sha256


def _entries(wnids):
    return [ClassEntry(index, wnid, "any name") for index, wnid in enumerate(wnids)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda wnids: wnids[:-1], "has 7 classes, .* has 6. .* index 6: n00000006 in .*, nothing in the records"),
        (lambda wnids: [*wnids, "n00000009"], "has 8. .* index 7: nothing in .*, n00000009 in the records"),
        (lambda wnids: wnids[::-1], "index 0: n00000000 in .*, n00000006 in the records"),
        (lambda wnids: [*wnids[:3], "n00000099", *wnids[4:]], "index 3: n00000003 .*, n00000099 in the records"),
    ],
)
def test_other_classes_are_refused_by_their_first_difference(fake, tmp_path, change, text):
    wnids = [wnid for wnid, _ in class_table(7)]
    check_classes(fake, _entries(wnids), tmp_path)
    with pytest.raises(ServeError, match=text):
        check_classes(fake, _entries(change(wnids)), tmp_path)
