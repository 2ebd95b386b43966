"""What changes between runs is refused with its name; what changes during one costs no row but its own."""

import contextlib
import dataclasses
import itertools
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder, read_list
from convnext_imagenet.serve.inputs.inputs import Item
from convnext_imagenet.serve.inputs.kinds import open_inputs
from convnext_imagenet.serve.inputs.records import open_split
from convnext_imagenet.serve.inputs.storage import local_file
from convnext_imagenet.serve.inputs.tables import open_table
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.predict.part_writer import plan_predictions
from convnext_imagenet.serve.predict.verify import verify_predictions
from convnext_imagenet.serve.settings import PredictOptions, TransformOptions

from ..conftest import build_records, picture, write_checkpoint

OPTIONS = PredictOptions(topk=3, part_rows=4, batch_size=3, workers=2)


def _run(checkpoint, inputs, out, options=OPTIONS, on_progress=lambda count: None):
    with open_job(checkpoint, inputs, out, options) as job:
        return job.run(on_progress)


def _bytes(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"size_px": 48}, r"transform\.size_px"),
        ({"crop_pct": 1.0, "mode": "squash"}, r"transform\.crop_pct, transform\.mode"),
    ],
)
def test_another_transform_in_the_same_directory_is_refused(fake, folder, tmp_path, change, differs):
    _run(fake, list_folder(folder), tmp_path / "out")
    before = _bytes(tmp_path / "out")
    with pytest.raises(ArtefactError, match=rf"differs in: {differs}\)"):
        _run(fake.evaluated_with(TransformOptions(**change)), list_folder(folder), tmp_path / "out")
    assert _bytes(tmp_path / "out") == before


def test_other_weights_in_the_same_directory_are_refused(fake, folder, tmp_path):
    _run(fake, list_folder(folder), tmp_path / "out")
    with pytest.raises(ArtefactError, match=r"differs in: model\.sha256\)"):
        _run(dataclasses.replace(fake, sha256="1" * 64), list_folder(folder), tmp_path / "out")


def test_workers_and_time_limit_are_free(fake, folder, tmp_path):
    _run(fake, list_folder(folder), tmp_path / "out")
    free = dataclasses.replace(OPTIONS, workers=1, timeout_s=1e9)
    assert _run(fake, list_folder(folder), tmp_path / "out", free).parts_made == 0


def _add(folder):
    (folder / "added.jpg").write_bytes(picture(9))


def _grow(folder):
    (folder / "a.jpg").write_bytes(picture(9) + b"more")


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (_add, "inputs.count, inputs.sha256"),
        (lambda folder: (folder / "a.jpg").unlink(), "inputs.count, inputs.sha256"),
        (lambda folder: (folder / "a.jpg").rename(folder / "b.jpg"), "inputs.sha256"),
        (_grow, "inputs.sha256"),
    ],
    ids=["added", "removed", "renamed", "grown"],
)
def test_a_folder_that_changes_between_runs_is_refused(fake, folder, tmp_path, change, differs):
    with open_job(fake, list_folder(folder), tmp_path / "out", OPTIONS) as job, pytest.raises(KeyboardInterrupt):
        job.run(_interrupt)
    before = _bytes(tmp_path / "out")
    change(folder)
    with pytest.raises(ArtefactError, match=rf"differs in: {differs}\)"):
        _run(fake, list_folder(folder), tmp_path / "out")
    assert _bytes(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        ({}, {"topk": 21_000}, "topk"),
        ({}, {"extras": ("logits",), "part_rows": 5000}, "extras"),
        ({"batch_size": 32}, {"batch_size": 4}, "batch_size"),
        ({"part_rows": 100}, {"part_rows": 50}, r"parts\.most_rows"),
    ],
)
def test_a_refusal_names_what_the_user_changed_and_not_what_follows(tmp_path, folder, before, now, differs):
    many = load_checkpoint(write_checkpoint(tmp_path / "many.safetensors", classes=21_841))
    inputs = list_folder(folder)
    with open_job(many, inputs, tmp_path / "out", PredictOptions(**before)):
        pass
    with (
        pytest.raises(ArtefactError, match=rf"differs in: {differs}\)"),
        open_job(many, inputs, tmp_path / "out", PredictOptions(**{**before, **now})),
    ):
        pass


def test_a_small_folder_that_grows_does_not_blame_the_batch(fake, folder, tmp_path):
    options = PredictOptions(batch_size=32)
    _run(fake, list_folder(folder), tmp_path / "out", options)
    _add(folder)
    with pytest.raises(ArtefactError, match=r"differs in: inputs\.count, inputs\.sha256\)"):
        _run(fake, list_folder(folder), tmp_path / "out", options)


def _interrupt(count):
    raise KeyboardInterrupt


def test_each_set_of_inputs_has_its_own_plan(fake, folder, tmp_path):
    images = [picture(seed) for seed in range(3)]
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    (tmp_path / "l.txt").write_text("images/a.jpg\nimages/z.png\nimages/b/gray.jpg\n")
    (tmp_path / "m.txt").write_text("images/z.png\nimages/a.jpg\nimages/b/gray.jpg\n")
    records = build_records(tmp_path / "records", images, [0, 1, 2])
    kinds = [
        list_folder(folder),
        list_folder(folder / "b"),
        read_list(local_file(tmp_path / "l.txt")),
        read_list(local_file(tmp_path / "m.txt")),
        open_table(local_file(tmp_path / "t.parquet")),
        open_split(records, "val", []),
    ]
    assert len({plan_predictions(fake, inputs, OPTIONS)["inputs"]["sha256"] for inputs in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("part_rows", "sizes"), [(1, [1] * 11), (2, [2] * 5 + [1]), (5, [3, 5, 3]), (11, [3, 6, 2]), (500, [3, 6, 2])]
)
def test_parts_grow_from_one_batch_to_the_size_that_was_asked_for(fake, folder, tmp_path, part_rows, sizes):
    summary = _run(fake, list_folder(folder), tmp_path / "out", dataclasses.replace(OPTIONS, part_rows=part_rows))
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == sizes
    assert [pq.read_metadata(part).num_row_groups for part in parts] == [1] * len(sizes)
    assert [path.name for path in parts] == [f"part-{number:05d}.parquet" for number in range(len(sizes))]
    assert (summary.parts, summary.rows) == (len(sizes), 11)
    assert pq.read_table(tmp_path / "out")["sample_id"].to_pylist() == list(range(11))


@pytest.mark.parametrize("missing", [[0], [1], [2], [0, 2]])
def test_parts_that_lie_apart_are_made_again_from_their_own_inputs(fake, folder, tmp_path, missing):
    _run(fake, list_folder(folder), tmp_path / "out")
    whole = _bytes(tmp_path / "out")
    for number in missing:
        (tmp_path / "out" / f"part-{number:05d}.parquet").unlink()
    moved = []
    assert _run(fake, list_folder(folder), tmp_path / "out", on_progress=moved.append).parts_made == len(missing)
    assert sum(moved) == sum([3, 4, 4][number] for number in missing)
    assert _bytes(tmp_path / "out") == whole


class _Stop(BaseException):
    pass


def test_a_job_that_ends_before_any_rename_goes_on_to_the_same_bytes(fake, folder, tmp_path, monkeypatch):
    _run(fake, list_folder(folder), tmp_path / "whole")
    whole, replace = _bytes(tmp_path / "whole"), Path.replace
    for step in itertools.count():
        out, steps = tmp_path / f"out-{step}", itertools.count()

        def end_at_the_step(path, target, step=step, steps=steps):
            if next(steps) == step:
                raise _Stop
            return replace(path, target)

        with monkeypatch.context() as patch, contextlib.suppress(_Stop):
            patch.setattr(Path, "replace", end_at_the_step)
            _run(fake, list_folder(folder), out)
            break
        assert {path.name for path in out.rglob("*.parquet")} == {path.name for path in out.glob("part-*.parquet")}
        assert not (out / "_SUCCESS").exists()
        receipts = {path.stem.removeprefix("_") for path in out.glob("_part-*.json")}
        assert receipts <= {path.stem for path in out.glob("part-*.parquet")}, "a receipt comes after its part"
        _run(fake, list_folder(folder), out)
        assert _bytes(out) == whole
    assert step == 1 + 2 * 3 + 1 + 1, "the plan, each part and its receipt, the manifest, the mark"


def test_files_that_change_while_the_job_runs_are_rows_and_their_neighbours_are_untouched(fake, folder, tmp_path):
    _run(fake, list_folder(folder), tmp_path / "quiet")
    expected = pq.read_table(tmp_path / "quiet").to_pylist()

    def vanish(count):  # after the first batch; what is read by then are at most six inputs more
        if (folder / "z.png").exists():
            (folder / "z.png").unlink()
            (folder / "\udcff.gif").unlink()
            (folder / "\udcff.gif").mkdir()

    options = dataclasses.replace(OPTIONS, batch_size=2, readers=2)
    summary = _run(fake, list_folder(folder), tmp_path / "out", options, vanish)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert summary.statuses["read_error"] == 3
    assert [(row["status"], row["error"]) for row in rows[-2:]] == [
        ("read_error", "No such file or directory"),
        ("read_error", "Is a directory"),
    ]
    assert rows[:-2] == expected[:-2]
    assert verify_predictions(tmp_path / "out").problems == ()


@dataclasses.dataclass(frozen=True)
class _Hanging:
    """Seven inputs of which some never end to load."""

    release: threading.Event
    hanging: frozenset
    count: int = 7
    sha256: str = "0" * 64

    def items(self, numbers):
        for number in numbers:
            yield Item(f"{number}.jpg", lambda number=number: self._load(number), label=number)

    def is_inside(self, path):
        return False

    def _load(self, number):
        if number in self.hanging:
            self.release.wait(60)
        return picture(number)


def test_an_input_that_hangs_is_a_row_and_its_neighbours_are_untouched(fake, tmp_path):
    release = threading.Event()
    _run(fake, _Hanging(release, frozenset()), tmp_path / "quiet")
    expected = pq.read_table(tmp_path / "quiet").to_pylist()
    done = []

    def let_go_at_the_end(count):
        done.append(count)
        if sum(done) == 7:
            release.set()

    options = dataclasses.replace(OPTIONS, timeout_s=0.2)
    summary = _run(fake, _Hanging(release, frozenset({1, 5})), tmp_path / "out", options, let_go_at_the_end)
    assert summary.statuses == {"ok": 5, "timeout": 2}
    for number, row in enumerate(pq.read_table(tmp_path / "out").to_pylist()):
        if number not in (1, 5):
            assert row == expected[number]
            continue
        assert (row["status"], row["error"]) == ("timeout", "not read within 0.2 s")
        assert (row["sample_id"], row["label"], row["correct"], row["topk"]) == (number, number, None, None)
    assert verify_predictions(tmp_path / "out").problems == ()


@pytest.mark.parametrize("uri", [False, True])
def test_predictions_inside_the_inputs_are_refused_and_beside_a_list_are_not(fake, folder, tmp_path, uri):
    inputs = open_inputs(folder.as_uri() if uri else str(folder), [])
    with pytest.raises(ServeError, match="lies inside"):
        _run(fake, inputs, folder / "b" / "out")
    (tmp_path / "list.txt").write_text("images/a.jpg\n")
    assert _run(fake, read_list(local_file(tmp_path / "list.txt")), tmp_path / "out").rows == 1
