"""A failure that passes costs no row, and a place that is away ends the job before any part is wrong."""

import dataclasses
import errno
import itertools
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import FailedError
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.inputs.inputs import Item, PlaceGone
from convnext_imagenet.serve.predict.job import LocalRunner, open_job
from convnext_imagenet.serve.predict.reading import ReadWatch, RetryRule, retry_pause
from convnext_imagenet.serve.predict.verify import verify_predictions
from convnext_imagenet.serve.samples import Sample, is_worth_a_retry, load_sample
from convnext_imagenet.serve.settings import PredictOptions

from ..conftest import picture

OPTIONS = PredictOptions(topk=2, part_rows=4, batch_size=2, workers=2, readers=3, retry_s=0)
COUNT = 18  # parts of 2, 4, 4, 4 and 4


@dataclasses.dataclass(frozen=True)
class Store:
    """Inputs whose loading fails: `failures` maps a number to how many times; -1 is always."""

    failures: dict[int, int]
    count: int = COUNT
    sha256: str = "0" * 64
    calls: Counter = dataclasses.field(default_factory=Counter)

    def items(self, numbers):
        for number in numbers:
            yield Item(f"{number}.jpg", lambda number=number: self._load(number), label=number % 7)

    def is_inside(self, path):
        return False

    def _load(self, number):
        self.calls[number] += 1
        if self.failures.get(number, 0) < 0 or self.calls[number] <= self.failures.get(number, 0):
            raise OSError("AWS Error SLOW_DOWN during GetObject operation (HTTP status 503)")
        return picture(number)


def _run(fake, store, out, retry=(), on_progress=lambda count: None, **changes):
    with open_job(fake, store, out, dataclasses.replace(OPTIONS, **changes), retry=retry) as job:
        return job.run(on_progress)


def _bytes(out, pattern="part-*"):
    return {path.name: path.read_bytes() for path in sorted(out.glob(pattern))}


def test_pauses_grow_and_end_within_the_stated_time():
    assert [retry_pause(calls, 0, 60, 0.5) for calls in range(1, 7)] == [0.5, 1, 2, 4, 8, 8]
    assert retry_pause(3, 58, 60, 0.5) == 2
    assert retry_pause(3, 58.1, 60, 0.5) is None
    assert retry_pause(1, 0, 0, 0.0) is None
    assert retry_pause(1, 0, 60, 0.0) < retry_pause(1, 0, 60, 0.9)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("AWS Error UNKNOWN (HTTP status 503)"), True),
        (OSError("When reading key 'SIGNATURE_unauthorized.jpg': AWS Error UNKNOWN (HTTP status 503)"), True),
        (OSError("AWS Error SIGNATURE_DOES_NOT_MATCH during GetObject operation"), False),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (PlaceGone(errno.ENOENT, "its folder is missing"), True),
        (OSError(errno.ENOENT, "no such file"), False),
        (OSError(errno.EISDIR, "Is a directory"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error, expected):
    assert is_worth_a_retry(error) == expected


def test_a_folder_that_stayed_away_is_waited_for_once():
    def load(name):
        def fail():
            raise PlaceGone(errno.ENOENT, "gone")

        return load_sample(Item(name, fail), 0)

    rule = RetryRule(10)
    assert rule.pause(load("a/1.jpg"), 1, 0) is not None
    assert rule.pause(load("a/1.jpg"), 9, 9.9) is None
    assert rule.pause(load("a/2.jpg"), 1, 0) is None
    assert rule.pause(load("b/2.jpg"), 1, 0) is not None


def test_reads_that_fail_for_a_while_leave_the_bytes_of_a_quiet_job(fake, tmp_path):
    _run(fake, Store({}), tmp_path / "quiet")
    store = Store({0: 1, 3: 2, 17: 1})
    assert _run(fake, store, tmp_path / "out", retry_s=30).statuses == {"ok": COUNT}
    assert _bytes(tmp_path / "out", "*") == _bytes(tmp_path / "quiet", "*")
    assert (store.calls[0], store.calls[3], store.calls[17]) == (2, 3, 2)


@pytest.mark.parametrize("first", [0, 1, 5, 6, 13, 15, 17])
def test_a_place_that_stays_away_ends_the_job_and_no_part_holds_a_row_of_it(fake, tmp_path, first):
    _run(fake, Store({}), tmp_path / "quiet")
    out = tmp_path / "out"

    class Lost(Store):
        """What could be read before cannot be read again."""

        def _load(self, number):
            if number >= first or self.calls[number]:
                raise OSError(errno.EIO, "Input/output error")
            return super()._load(number)

    with pytest.raises(FailedError, match=r"run the same command again to resume, or pass --stop-after 0"):
        _run(fake, Lost({}), out, stop_after=4)
    assert not protocol.is_finished(out)
    finished = _bytes(out)
    assert all(finished[name] == whole for name, whole in _bytes(tmp_path / "quiet").items() if name in finished)
    assert _run(fake, Store({}), out).statuses == {"ok": COUNT}
    assert _bytes(out, "*") == _bytes(tmp_path / "quiet", "*")


def test_inputs_that_fail_alone_are_rows_and_stop_after_0_stops_never(fake, tmp_path):
    alone = dict.fromkeys((1, 2, 3, 6, 9, 16, 17), -1)
    assert _run(fake, Store(alone), tmp_path / "alone", stop_after=4).statuses == {"ok": 11, "read_error": 7}
    everything = dict.fromkeys(range(COUNT), -1)
    assert _run(fake, Store(everything), tmp_path / "all", stop_after=0).statuses == {"read_error": COUNT}


@pytest.mark.parametrize("is_known", [False, True])
def test_what_the_watch_knows_before_a_part_is_published(is_known):
    asked = []
    watch = ReadWatch(5, lambda number: asked.append(number) or True)
    if is_known:
        watch.see([Sample(6, "good.jpg")])
    watch.see([Sample(7, "missing.jpg", status="read_error", error="No such file or directory")])
    watch.see([Sample(8, "bad.jpg", status="read_error", error="x", is_unread=True)])
    if is_known:
        watch.confirm()
        assert asked == [6], "a missing file was never readable, so it cannot prove that the place is away"
    else:
        with pytest.raises(FailedError, match="1 input could not be read, and none before"):
            watch.confirm()


def test_a_retry_makes_only_the_parts_with_such_rows_once_and_is_in_the_manifest(fake, tmp_path):
    _run(fake, Store({}), tmp_path / "quiet")
    out = tmp_path / "out"
    _run(fake, Store({3: -1, 15: -1}), out)
    before = _bytes(out)
    store = Store({15: -1})
    summary = _run(fake, store, out, retry=("read_error", "timeout"))
    assert (summary.parts_made, summary.statuses) == (2, {"ok": 17, "read_error": 1})
    assert sorted(store.calls) == [2, 3, 4, 5, 14, 15, 16, 17]
    after, whole = _bytes(out), _bytes(tmp_path / "quiet")
    assert {name for name in after if after[name] != before[name]} == {"part-00001.parquet"}
    assert after["part-00001.parquet"] == whole["part-00001.parquet"]
    (history,) = json.loads((out / "_manifest.json").read_text())["retries"]
    assert (history["number"], history["statuses"]) == (1, ["read_error", "timeout"])
    assert [(part["index"], part["statuses"]) for part in history["parts"]] == [
        (1, {"ok": 3, "read_error": 1}),
        (4, {"ok": 3, "read_error": 1}),
    ]
    assert verify_predictions(out).problems == ()
    assert _run(fake, Store({}), out).parts_made == 0, "without --retry nothing is tried again"
    assert _run(fake, Store({}), out, retry=("read_error",)).parts_made == 1
    assert _run(fake, Store({}), out, retry=("read_error",)).parts_made == 0
    assert _bytes(out) == whole
    assert [each["number"] for each in json.loads((out / "_manifest.json").read_text())["retries"]] == [1, 2]


def test_the_slowest_stage_is_named_after_every_batch(fake, tmp_path):
    stages = []
    with open_job(fake, Store({}), tmp_path / "out", OPTIONS) as job:
        job.run(lambda count: None, LocalRunner(on_slowest=stages.append))
    assert len(stages) == COUNT / OPTIONS.batch_size
    assert set(stages) <= {"read", "decode", "network"}


class _Stop(BaseException):
    pass


@pytest.mark.parametrize("same_command", [True, False])
def test_a_retry_that_ends_before_any_rename_makes_each_part_once(fake, tmp_path, monkeypatch, same_command):
    """The list of retries, two parts with a receipt each, the manifest and the mark: seven renames."""
    failing, replace = {3: -1, 15: -1}, Path.replace
    _run(fake, Store({}), tmp_path / "quiet")
    for step in itertools.count():
        out, steps, made = tmp_path / f"out-{step}", itertools.count(), 0
        _run(fake, Store(failing), out)

        def end_at_the_step(path, target, step=step, steps=steps):
            if next(steps) == step:
                raise _Stop
            return replace(path, target)

        store = Store({15: -1})
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", end_at_the_step)
            try:
                _run(fake, store, out, retry=("read_error",))
                break
            except _Stop:
                made = len({path.name for path in out.glob("_part-*.json") if '"retry"' in path.read_text()})
        assert not protocol.is_finished(out)
        again = ("read_error",) if same_command or step == 0 else ()
        is_next = same_command and made == 2  # all was made anew: 15 still fails, so the same words begin another
        assert _run(fake, Store({15: -1}), out, retry=again).parts_made == (1 if is_next else 2 - made)
        retries = json.loads((out / "_manifest.json").read_text())["retries"]
        assert [retry["number"] for retry in retries] == ([1, 2] if is_next else [1])
        assert _bytes(out)["part-00001.parquet"] == _bytes(tmp_path / "quiet")["part-00001.parquet"]
        assert verify_predictions(out).problems == ()
    assert step == 7


def test_a_mount_that_is_lost_and_comes_back(fake, tmp_path):
    """The folder is away after the first part, as a mount point without its disk: empty."""
    images, parked = tmp_path / "images", tmp_path / "parked"
    images.mkdir()
    for number in range(COUNT):
        (images / f"{number:02d}.jpg").write_bytes(picture(number))
    inputs = list_folder(images)
    _run(fake, inputs, tmp_path / "quiet")

    def lose(count):
        if not parked.exists():
            images.rename(parked)
            images.mkdir()

    with pytest.raises(FailedError, match="the last is"):
        _run(fake, inputs, tmp_path / "out", on_progress=lose, readers=1, workers=1, stop_after=3)
    images.rmdir()
    parked.rename(images)
    assert _run(fake, inputs, tmp_path / "out").statuses == {"ok": COUNT}
    assert _bytes(tmp_path / "out", "*") == _bytes(tmp_path / "quiet", "*")
    assert pq.read_table(tmp_path / "out")["sample_id"].to_pylist() == list(range(COUNT))
