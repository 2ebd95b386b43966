"""Two Ray nodes on this machine, commands that join them, and a unit tree big enough to be disturbed."""

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

STORE_BYTES = 80 << 20
COMMAND = """
import sys
from convnext_imagenet.ingest.shards import plan
from convnext_imagenet.{room}.cli import main

plan._ROWS_WORTH_A_SHARD, plan._SHARDS_FOR_PARALLELISM = 60, 16

if __name__ == "__main__":
    main(prog_name="convnext-{room}")
"""


class TwoNodes:
    """A head that holds the driver and one core, and a second node that comes and goes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._second: subprocess.Popen[bytes] | None = None
        self.add()

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return self._cluster.address

    @property
    def is_whole(self) -> bool:
        """Whether the second node was not killed."""
        return self._second is not None

    def add(self, *before: str, **environment: str) -> None:
        """Start the second node, by way of the command `before`, and do not wait for it."""
        options = ["--num-cpus", "1", "--object-store-memory", str(STORE_BYTES), "--block"]
        self._second = subprocess.Popen(
            [*before, str(Path(sys.executable).with_name("ray")), "start", "--address", self.address, *options],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """SIGKILL to all processes of the second node."""
        if self._second is not None:
            processes = psutil.Process(self._second.pid).children(recursive=True)
            for process in (*processes, self._second):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._second.wait()
        self._second = None

    def end(self) -> None:
        """End both nodes."""
        self.kill()
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def _two_nodes() -> Iterator[TwoNodes]:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    nodes = TwoNodes()
    yield nodes
    nodes.end()


@pytest.fixture
def two_nodes(_two_nodes: TwoNodes) -> TwoNodes:
    """A cluster of two nodes of one core each, whatever a test before did to the second."""
    if not _two_nodes.is_whole:
        _two_nodes.add()
    return _two_nodes


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """The command line of a room, which makes many small shards."""
    folder = tmp_path_factory.mktemp("commands")

    def make(room: str, *arguments: object) -> list[str]:
        script = folder / f"run_{room}.py"
        script.write_text(COMMAND.format(room=room))
        return [sys.executable, str(script), *map(str, arguments)]

    return make


def run(arguments: list[str], seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(arguments, capture_output=True, text=True, timeout=seconds, check=False)


@contextlib.contextmanager
def started(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running command, killed at the end of the block if it still runs."""
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(is_true: Callable[[], bool], log: Path, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Wait until something is so; a command that ends before fails the test."""
    end = time.monotonic() + seconds
    while not is_true():
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.01)


def digests(root: Path) -> dict[str, str]:
    """The SHA-256 of each file that an artefact is made of."""
    files = (path for path in root.rglob("*") if path.is_file() and "logs" not in str(path.parent.name))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def picture(seed: int, size_px: int = 64) -> bytes:
    """A noisy JPEG."""
    import cv2

    pixels = np.random.default_rng(seed).integers(0, 255, size=(size_px, size_px, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 train images of two classes, one of them bad, and 20 val images in class folders, without a devkit."""
    root = tmp_path_factory.mktemp("tree") / "raw"
    images = [picture(seed) for seed in range(50)]
    for split, count in (("train", 600), ("val", 10)):
        for wnid in ("n00000010", "n00000020"):
            (root / split / wnid).mkdir(parents=True)
            for number in range(count):
                (root / split / wnid / f"{wnid}_{number}.JPEG").write_bytes(images[number % 50])
    (root / "train" / "n00000010" / "n00000010_7.JPEG").write_bytes(images[7][:-30])
    return root


@pytest.fixture(scope="session", autouse=True)
def quiet_environment() -> Iterator[None]:
    """Commands find no cluster but the one they are told of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
