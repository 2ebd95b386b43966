"""What CHECKPOINT may mean, and what is refused."""

import pytest

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.serve.checkpoint import check_classes, load_checkpoint, resolve_checkpoint
from convnext_imagenet.serve.errors import ServeError

from .conftest import class_table, write_checkpoint


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
    with pytest.raises(ServeError, match=r"best: names .* give a weights file"):
        resolve_checkpoint(run)


def test_a_run_without_best_and_paths_that_are_no_run(run, tmp_path):
    (run / "best").unlink()
    (tmp_path / "empty").mkdir()
    for path, text in ((run, "no epoch has finished"), (tmp_path / "empty", "not a RUN"), (tmp_path / "no", "no such")):
        with pytest.raises(ServeError, match=text):
            resolve_checkpoint(path)


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
        (lambda wnids: wnids[:-1], "knows 7 classes, .* has 6; .* index 6: n00000006 in .*, nothing in the records"),
        (lambda wnids: [*wnids, "n00000009"], "has 8; .* index 7: nothing in .*, n00000009 in the records"),
        (lambda wnids: wnids[::-1], "index 0: n00000000 in .*, n00000006 in the records"),
        (lambda wnids: [*wnids[:3], "n00000099", *wnids[4:]], "index 3: n00000003 .*, n00000099 in the records"),
    ],
)
def test_other_classes_are_refused_by_their_first_difference(fake, tmp_path, change, text):
    wnids = [wnid for wnid, _ in class_table(7)]
    check_classes(fake, _entries(wnids), tmp_path)
    with pytest.raises(ServeError, match=text):
        check_classes(fake, _entries(change(wnids)), tmp_path)
