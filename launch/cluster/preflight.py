"""Checks before any work that every node of a cluster sees the job's folders and has the same software as this node.

`inspect_node` runs on the nodes, `check_nodes` on the driver. This module must not import Ray.
"""

import hashlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from convnext_imagenet.base.files import make_folder
from convnext_imagenet.launch.cluster.nodes import Node, refuse_other_software, software_here
from convnext_imagenet.launch.errors import LaunchError

_HEAD_BYTES = 64 << 10  # enough to tell two files apart; inputs have many GB
_VISIBLE_SECONDS = 5.0  # network file systems cache for some seconds that a file does not exist
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Probe:
    """The test for a node: read the question in `out`, write an answer beside it, and read the inputs."""

    out: Path
    token: str
    inputs: tuple[Path, ...] = ()

    @property
    def question(self) -> Path:
        """Return the driver's file; it is named like a temporary file, so that a later run removes it after a crash."""
        return self.out / f".probe-{self.token}.tmp"

    def answer(self, node: str) -> Path:
        """Return the file that a node writes."""
        return self.out / f".probe-{self.token}-{node}.tmp"


@dataclass(frozen=True)
class NodeReport:
    """What a node sees: its software, its inputs, and why it cannot use the output folder ("" if it can)."""

    host: str
    software: Mapping[str, str]
    inputs: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


def inspect_node(probe: Probe, node: str) -> NodeReport:
    """Return what this node sees; runs on the node. Never raises OSError."""
    try:
        problem = "" if _read_when_visible(probe.question) == probe.token else "holds another probe file"
        if not problem:
            with probe.answer(node).open("w", encoding="ascii") as file:
                file.write(f"{probe.token} {node}")
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        problem = error.strerror or str(error)
    inputs = {str(path): fingerprint(path) for path in probe.inputs}
    return NodeReport(socket.gethostname(), software_here(), inputs, problem)


def fingerprint(path: Path) -> str:
    """Return a short text that identifies the content of a file or folder, to compare what two nodes see.

    For a file: its size and a digest of its first 64 KiB. For a folder: a digest of the names in it, and its first
    file. Never raises OSError.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()[:12]
            return f"{path.stat().st_size} bytes with digest {head}"
        with os.scandir(path) as entries:
            listing = sorted((entry.name, entry.is_file()) for entry in entries)
        names = "\0".join(name for name, _ in listing).encode(errors="surrogateescape")
        first = next((name for name, is_file in listing if is_file), None)
        return f"{len(listing)} entries with digest {hashlib.sha256(names).hexdigest()[:12]}" + (
            f", {first}: {fingerprint(path / first)}" if first else ""
        )
    except OSError as error:
        return f"nothing ({error.strerror})"


def check_nodes(out: Path, inputs: Iterable[Path], ask: Callable[[Probe], Iterator[tuple[Node, NodeReport]]]) -> None:
    """Raise LaunchError unless every node reads and writes `out`, sees the `inputs`, and has this node's software.

    `ask` runs `inspect_node` on the nodes and yields each node's report. If this call created `out` and raises, it
    removes the folder again.
    """
    with _question(out, tuple(inputs)) as probe:
        here = software_here()
        seen_here = {str(path): fingerprint(path) for path in probe.inputs}
        for node, report in ask(probe):
            refuse_other_software(_name(node, report), here, report.software)
            _refuse_other_folders(_name(node, report), node, probe, seen_here, report)


@contextmanager
def _question(out: Path, inputs: tuple[Path, ...]) -> Iterator[Probe]:
    is_new = not out.exists()
    make_folder(out)
    probe = Probe(out, secrets.token_hex(8), inputs)
    probe.question.write_text(probe.token, encoding="ascii")
    try:
        yield probe
    finally:
        for leftover in out.glob(f".probe-{probe.token}*.tmp"):
            leftover.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # it is no longer empty
                out.rmdir()


def _refuse_other_folders(
    name: str, node: Node, probe: Probe, seen_here: Mapping[str, str], report: NodeReport
) -> None:
    way_out = "mount it as a shared folder under the same path on all nodes"
    if report.problem:
        raise LaunchError(f"node {name}: cannot use the output folder {probe.out} ({report.problem}); {way_out}")
    try:
        answer = _read_when_visible(probe.answer(node.identity))
    except OSError:
        answer = ""
    if answer != f"{probe.token} {node.identity}":
        raise LaunchError(f"node {name}: files that it writes to {probe.out} do not appear on this node; {way_out}")
    for path, here in seen_here.items():
        if (there := report.inputs.get(path)) != here:
            raise LaunchError(f"node {name}: finds {there} at {path}, but this node finds {here}; {way_out}")


def _name(node: Node, report: NodeReport) -> str:
    return f"{node.host} ({report.host})"


def _read_when_visible(path: Path) -> str:
    end = time.monotonic() + _VISIBLE_SECONDS
    while True:
        try:
            return path.read_text(encoding="ascii")
        except FileNotFoundError:
            if time.monotonic() > end:
                raise
            time.sleep(_POLL_SECONDS)
