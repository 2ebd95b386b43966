"""Every finished epoch reaches the tool exactly once, wherever the tracker is killed and whatever the run does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import write_json
from convnext_imagenet.base.protocol import exclusive
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.track import follow as following
from convnext_imagenet.train.track.follow import Sent, TrackedRun, digest, follow, numbers, parameters

SHOWN = TrackedRun("", "name", "project", {"train.epochs": 3})


class Killed(BaseException):
    """The process ends here."""


class Store:
    """What a tool has stored, over all processes: by the key of its run, (name, epoch, value) in order."""

    def __init__(self, continues: bool) -> None:
        self.continues = continues
        self.runs: dict[str, list[tuple[str, int, float]]] = {}
        self.killed_at = -1
        self.actions = 0

    def act(self) -> None:
        """Count an action; a kill comes before it."""
        if self.actions == self.killed_at:
            raise Killed
        self.actions += 1


class StoreTool:
    """A tool that stores one number at a time, so that a kill leaves a part of an epoch."""

    def __init__(self, store: Store) -> None:
        self.store, self.continues = store, store.continues

    def open(self, run: TrackedRun, epochs: int) -> bool:
        self.store.act()
        has_it = self.continues and run.key in self.store.runs
        self.rows = self.store.runs.setdefault(run.key, []) if self.continues else []
        self.store.runs[run.key] = self.rows
        self.key = run.key
        return has_it or not epochs

    def send(self, epoch: int, step: int, values: dict[str, float], is_sent_again: bool) -> None:
        for name, value in values.items():
            if is_sent_again and (name, epoch) in [row[:2] for row in self.rows]:
                continue
            self.store.act()
            self.rows.append((name, epoch, value))

    def close(self, is_finished: bool) -> None:
        self.store.act()

    def discard(self) -> None:
        self.store.act()
        del self.store.runs[self.key]


def _line(epoch: int, **changes: Any) -> dict[str, Any]:
    line = {"epoch": epoch, "step": 4 * epoch, "train_loss": 3 / epoch, "train_is_mixed": True, "val_top1": None}
    return line | {"train_s": 1.5} | changes


class Run:
    """A RUN as a tracker sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.memory = folder, folder / "tracked-store.json"
        (folder / "checkpoints").mkdir()

    def write(self, lines: list[dict[str, Any]], saved: int, is_finished: bool = False) -> None:
        (self.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_json(self.folder / "checkpoints" / f"epoch-{saved:04d}.json", {"facts": {"epoch": saved}})
        (self.folder / "last").write_text(f"epoch-{saved:04d}\n")
        if is_finished:
            (self.folder / "_SUCCESS").touch()

    def track(self, store: Store, wait: Callable[[], bool] = lambda: False) -> list[tuple[int, bool]]:
        sent: list[tuple[int, bool]] = []
        follow(self.folder, self.memory, StoreTool(store), SHOWN, wait, lambda *what: sent.append(what))
        return sent


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def _stored(store: Store) -> list[tuple[str, int, float]]:
    (rows,) = store.runs.values()
    return rows


def _expected(lines: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    return [(name, line["epoch"], value) for line in lines for name, value in numbers(line).items()]


def test_only_saved_epochs_are_sent_and_each_once(run: Run) -> None:
    store, lines = Store(True), [_line(1), _line(2), _line(3)]
    run.write(lines[:2], saved=1)
    assert run.track(store) == [(1, False)]
    assert run.track(store) == []
    run.write(lines, saved=3)
    assert run.track(store) == [(2, False), (3, False)]
    assert _stored(store) == _expected(lines)


def test_following_ends_when_the_run_is_finished_and_all_is_sent(run: Run) -> None:
    store, lines, looks = Store(True), [_line(epoch) for epoch in range(1, 6)], []

    def wait() -> bool:
        looks.append(1)
        run.write(lines[: len(looks) + 1], saved=len(looks), is_finished=len(looks) == 4)
        return True

    run.write(lines[:1], saved=0)
    assert [epoch for epoch, _ in run.track(store, wait)] == [1, 2, 3, 4, 5]
    assert (len(looks), Sent.read(run.memory).is_finished) == (4, True)
    before = store.actions
    assert run.track(store) == []
    assert store.actions == before, "a finished run is not opened again"


@pytest.mark.parametrize("continues", [True, False])
@pytest.mark.parametrize("has_rewritten", [False, True])
def test_a_kill_at_any_moment_loses_and_repeats_nothing(
    continues: bool, has_rewritten: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write of the memory and every number sent is a moment; a kill comes before it."""
    lines = [_line(1), _line(2), _line(3, train_loss=0.25)]
    for moment in range(200):
        (tmp_path / str(moment)).mkdir()
        run, store = Run(tmp_path / str(moment)), Store(continues)
        if has_rewritten:
            run.write([_line(1), _line(2, train_loss=9.0)], saved=2)
            run.track(store)
        run.write(lines, saved=3, is_finished=True)
        store.killed_at = store.actions + moment

        def write(path: Path, value: Any, store: Store = store) -> None:
            store.act()
            write_json(path, value)

        monkeypatch.setattr(following, "write_json", write)
        try:
            run.track(store)
        except Killed:
            store.killed_at = -1
            run.track(store)
            was_killed = True
        else:
            was_killed = False
        monkeypatch.undo()
        key = Sent.read(run.memory).key
        assert store.runs[key] == _expected(lines), moment
        assert list(Sent.read(run.memory).epochs) == ["1", "2", "3"]
        if not was_killed:
            break
    assert moment > 15, "the kills reached the end"


def test_an_epoch_with_other_numbers_replaces_the_tools_run_and_other_times_do_not(run: Run) -> None:
    store = Store(True)
    run.write([_line(1), _line(2)], saved=2)
    run.track(store)
    run.write([_line(1), _line(2, train_s=7.0)], saved=2)
    assert run.track(store) == []
    changed = [_line(1), _line(2, train_loss=0.5)]
    run.write(changed, saved=1)
    assert run.track(store) == [], "not before its checkpoint is saved"
    run.write(changed, saved=2)
    assert run.track(store) == [(1, True), (2, True)]
    assert _stored(store) == _expected(changed)


def test_a_tool_that_begins_anew_is_not_emptied_of_lines_that_only_it_has(run: Run) -> None:
    store = Store(False)
    run.write([_line(1), _line(2)], saved=2)
    run.track(store)
    run.write([_line(3)], saved=3)
    with pytest.raises(TrainError, match=r"metrics\.jsonl: 2 sent epochs are missing, the first is 1, .*restore the"):
        run.track(store)
    assert _stored(store) == _expected([_line(1), _line(2)])


def test_one_process_at_a_time_and_beside_the_training_process(run: Run) -> None:
    run.write([_line(1)], saved=1)
    with exclusive(run.folder):
        assert run.track(Store(True)) == [(1, False)]
    with exclusive(run.folder, ".tracked-store.lock"), pytest.raises(ArtefactError, match="another process"):
        run.track(Store(True))


def test_a_memory_that_is_not_ours_is_refused(run: Run) -> None:
    run.memory.write_text('{"key": "a", "more": 1}')
    with pytest.raises(ArtefactError, match="remove it to send the run anew"):
        run.track(Store(True))


def test_numbers_leave_null_out_and_a_digest_leaves_times_out() -> None:
    assert numbers(_line(2)) == {"step": 8.0, "train_loss": 1.5, "train_is_mixed": 1.0, "train_s": 1.5}
    assert digest(_line(2)) == digest(_line(2, train_s=9.0)) != digest(_line(2, train_loss=1.0))


def test_parameters_are_the_keys_of_the_configuration(tmp_path: Path, finished_run: Path) -> None:
    found = parameters(finished_run / "config.toml")
    assert (found["model.dims"], found["schedule.base_lr"]) == ([8, 16, 24, 32], 0.002)
    with pytest.raises(TrainError, match="give the RUN of a `convnext-train run`"):
        parameters(tmp_path / "config.toml")
