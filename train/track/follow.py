"""Sends each finished epoch of a RUN to a tracking tool exactly once, from a process of its own.

RUN/tracked-TOOL.json remembers the tool's run and which epochs it has. An epoch is sent when the checkpoint at its end
is saved, because a resumed run writes the lines of later epochs again. If a line changes all the same (somebody made
the run go back to an earlier checkpoint), the tool's run is replaced by a new one with all epochs. This module must not
know any tool, and nothing of the loop.
"""

import dataclasses
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, sha256_json, write_json
from convnext_imagenet.base.protocol import exclusive, is_finished
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.run.epoch import read_metrics


@dataclass(frozen=True)
class TrackedRun:
    """What a tool shows a run as: `key` identifies it for good, `parameters` are the flattened configuration."""

    key: str
    name: str
    project: str
    parameters: Mapping[str, Any]


class Tool(Protocol):
    """One tracking tool, open for one run.

    `continues`: an opened run keeps what it has; otherwise it is begun anew, from the lines of metrics.jsonl.
    """

    continues: bool

    def open(self, run: TrackedRun, epochs: int) -> bool:
        """Open the run and return whether it still has the first `epochs` epochs; if not, it is empty."""

    def send(self, epoch: int, step: int, values: Mapping[str, float], is_sent_again: bool) -> None:
        """Store the numbers of an epoch for good. `is_sent_again`: a killed process may have stored some of them."""

    def close(self, is_finished: bool) -> None:
        """Close the run; it may be opened again unless it is finished."""

    def discard(self) -> None:
        """Remove the open run, because another one replaces it."""


@dataclass(frozen=True)
class Sent:
    """The content of RUN/tracked-TOOL.json: the digests of the sent lines by epoch, and the epoch being sent."""

    key: str
    epochs: Mapping[str, str] = field(default_factory=dict)
    sending: int | None = None
    is_finished: bool = False

    @staticmethod
    def read(path: Path) -> "Sent":
        """Return what an earlier process has sent, or nothing. Raises ArtefactError for a damaged file."""
        if not path.exists():
            return Sent(uuid.uuid4().hex)
        values = read_json(path)
        try:
            return Sent(**values)
        except TypeError:
            raise ArtefactError(f"{path}: not written by this program; remove it to send the run anew") from None


def follow(
    run: Path,
    path: Path,
    tool: Tool,
    shown_as: TrackedRun,
    wait: Callable[[], bool],
    on_sent: Callable[[int, bool], None],
) -> int:
    """Send the finished epochs of `run` that `path` does not remember; return how many the tool now has.

    After each look at the run `wait` is called; when it returns False, or the run is finished, the tool is closed. The
    key of `shown_as` is replaced by the remembered one. `on_sent` gets each epoch that is sent, and whether it replaces
    a sent one. Raises ArtefactError when another process sends this run, and what the tool raises.
    """
    with exclusive(run, f".{path.stem}.lock"):
        sent = Sent.read(path)
        if sent.is_finished and not has_changed(sent.epochs, read_metrics(run / "metrics.jsonl")):
            return len(sent.epochs)
        _refuse_loss(run, path, tool, sent)
        sent = _open(tool, path, shown_as, dataclasses.replace(sent, is_finished=False))
        while True:
            is_last = is_finished(run)  # before the lines are read: then they are all there
            final = final_lines(read_metrics(run / "metrics.jsonl"), None if is_last else saved_epoch(run))
            replaced: set[str] = set()
            if has_changed(sent.epochs, final):
                tool.discard()
                replaced = set(sent.epochs)
                sent = _open(tool, path, shown_as, Sent(uuid.uuid4().hex))
            for line in unsent_lines(sent.epochs, final):
                sent = _send(tool, path, sent, line)
                on_sent(line["epoch"], str(line["epoch"]) in replaced)
            if is_last or not wait():
                break
        tool.close(is_last)
        if is_last:
            write_json(path, dataclasses.asdict(dataclasses.replace(sent, is_finished=True)))
        return len(sent.epochs)


def _refuse_loss(run: Path, path: Path, tool: Tool, sent: Sent) -> None:
    """Raise TrainError if the tool's files would be begun anew without epochs that only they still have."""
    lines = {str(line["epoch"]) for line in read_metrics(run / "metrics.jsonl")}
    saved = saved_epoch(run)
    lost = sorted(int(epoch) for epoch in sent.epochs.keys() - lines if int(epoch) <= saved)
    if lost and not tool.continues:
        raise TrainError(
            f"{run / 'metrics.jsonl'}: {len(lost)} sent epochs are missing, the first is {lost[0]}, and sending begins "
            f"anew; restore the file, or move {path} and the folder {path.with_suffix('')} away to send what is left"
        )


def _open(tool: Tool, path: Path, shown_as: TrackedRun, sent: Sent) -> Sent:
    write_json(path, dataclasses.asdict(sent))  # the key first: the tool finds its run by it after a kill
    if tool.open(dataclasses.replace(shown_as, key=sent.key), len(sent.epochs)):
        return sent
    emptied = Sent(sent.key)
    write_json(path, dataclasses.asdict(emptied))
    return emptied


def _send(tool: Tool, path: Path, sent: Sent, line: Mapping[str, Any]) -> Sent:
    epoch = line["epoch"]
    is_sent_again = sent.sending == epoch
    sent = dataclasses.replace(sent, sending=epoch)
    write_json(path, dataclasses.asdict(sent))
    tool.send(epoch, line["step"], numbers(line), is_sent_again)
    sent = dataclasses.replace(sent, sending=None, epochs={**sent.epochs, str(epoch): digest(line)})
    write_json(path, dataclasses.asdict(sent))
    return sent


def final_lines(lines: Sequence[Mapping[str, Any]], saved: int | None) -> list[Mapping[str, Any]]:
    """Return the lines of the epochs up to `saved`; None means all of them."""
    return [line for line in lines if saved is None or line["epoch"] <= saved]


def unsent_lines(epochs: Mapping[str, str], lines: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the lines whose epochs are not in `epochs`, in order."""
    return (line for line in lines if str(line["epoch"]) not in epochs)


def has_changed(epochs: Mapping[str, str], lines: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the line of an epoch in `epochs` has other numbers now."""
    return any(epochs.get(str(line["epoch"]), digest(line)) != digest(line) for line in lines)


def digest(line: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a line without its times, which differ when a run does the same epoch again."""
    return sha256_json({name: value for name, value in line.items() if not name.endswith("_s")})


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line by name; null values are left out, true and false are 1 and 0."""
    return {name: float(value) for name, value in line.items() if isinstance(value, int | float) and name != "epoch"}


def saved_epoch(run: Path) -> int:
    """Return the last epoch whose checkpoint is saved, 0 before the first."""
    try:
        unit = (run / "last").read_text(encoding="utf-8").strip()
        return int(read_json(run / "checkpoints" / f"{unit}.json")["facts"]["epoch"])
    except (OSError, ArtefactError, KeyError, TypeError, ValueError):
        return 0  # none yet, or the run is replacing it at this moment: the next look finds it


def parameters(config: Path) -> dict[str, Any]:
    """Return the keys of a config.toml as `section.key`. Raises TrainError when it cannot be read."""
    try:
        sections = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(f"{config}: cannot be read ({error}); give the RUN of a `convnext-train run`") from None
    return {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
