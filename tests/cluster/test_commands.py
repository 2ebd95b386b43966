"""Ingest and scoring over two nodes as users meet them: the same bytes, whatever dies, and clear words before work."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convnext_imagenet.base.host import ROOMS
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import save_weights

from .conftest import digests, picture, run, started, wait_for

pytestmark = pytest.mark.cluster
ROUNDS = 2
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build(command, tree):
    """The command line of an ingest of the tree."""

    def make(out: Path, *options: object) -> list[str]:
        fixed = ("--classes", "found", "--unverified", "--max-quarantine", 1)
        return command("ingest", "build", tree, "--out", out, *fixed, *options)

    return make


@pytest.fixture(scope="module")
def records(build, tmp_path_factory) -> dict[str, str]:
    """What an ingest on this machine alone leaves."""
    out = tmp_path_factory.mktemp("records") / "out"
    result = run(build(out))
    assert result.returncode == 0, result.stderr
    return digests(out)


@pytest.fixture(scope="module")
def score(command, tmp_path_factory):
    """The command line of a prediction with a tiny network: 8 parts, three inputs that cannot be read."""
    root = tmp_path_factory.mktemp("score")
    config = ConvNeXtConfig("convnext_test", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=7, head_init_scale=40.0)
    classes = tuple((f"n{index:08d}", f"name {index}") for index in range(7))
    weights = root / "tiny.weights.safetensors"
    save_weights(weights, init_parameters(config, 3), ModelCard(config, classes, EvalTransform(size_px=32)))
    (root / "images").mkdir()
    for number in range(60):
        data = picture(number)
        (root / "images" / f"{number:02d}.jpg").write_bytes(data[: len(data) // 2] if number in (5, 30, 59) else data)

    def make(out: Path, *options: object) -> list[str]:
        fixed = ("--part-rows", 8, "--batch-size", 4, "--max-errors", 3)
        return command("serve", "predict", weights, root / "images", "--out", out, *fixed, *options)

    return make


@pytest.fixture(scope="module")
def predictions(score, tmp_path_factory) -> dict[str, str]:
    """What a prediction by this process alone leaves."""
    out = tmp_path_factory.mktemp("predictions") / "out"
    result = run(score(out))
    assert result.returncode == 0, result.stderr
    return digests(out)


def _on(two_nodes) -> tuple[str, ...]:
    return ("--engine", "ray", "--address", two_nodes.address)


def _receipts(out: Path) -> int:
    return len(list(out.glob("*/imagenet-*.json")))


def test_an_ingest_on_two_nodes_leaves_the_bytes_of_one_machine(build, records, two_nodes, tmp_path: Path):
    result = run(build(tmp_path / "out", *_on(two_nodes)))
    assert result.returncode == 0, result.stderr
    assert "with the same software and folders" in result.stderr
    assert digests(tmp_path / "out") == records


def test_a_prediction_on_two_nodes_leaves_the_bytes_of_one_process(score, predictions, two_nodes, tmp_path: Path):
    result = run(score(tmp_path / "out", *_on(two_nodes)))
    assert result.returncode == 0, result.stderr
    assert "8 of 8 parts" in result.stderr
    assert digests(tmp_path / "out") == predictions


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_an_ingest_outlives_a_node_killed_at_a_random_moment(build, records, two_nodes, tmp_path: Path, seed: int):
    out, log = tmp_path / "out", tmp_path / "log"
    with started(build(out, *_on(two_nodes)), log) as process:
        wait_for(lambda: _receipts(out) >= 1, log, process)
        time.sleep(random.Random(seed).uniform(0, 2))
        two_nodes.kill()
        two_nodes.add()
        assert process.wait(timeout=240) == 0, log.read_text()
    assert digests(out) == records


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_prediction_outlives_a_node_killed_at_a_random_moment(
    score, predictions, two_nodes, tmp_path: Path, seed: int
):
    out, log = tmp_path / "out", tmp_path / "log"
    with started(score(out, *_on(two_nodes)), log) as process:
        wait_for(lambda: out.exists(), log, process)  # from the preflight on
        time.sleep(random.Random(seed).uniform(0, 15))
        two_nodes.kill()
        two_nodes.add()
        assert process.wait(timeout=240) == 0, log.read_text()
    assert digests(out) == predictions


def test_a_driver_that_is_killed_leaves_receipts_from_which_this_machine_goes_on(
    build, records, two_nodes, tmp_path: Path
):
    out, log = tmp_path / "out", tmp_path / "log"
    with started(build(out, *_on(two_nodes)), log) as process:
        wait_for(lambda: _receipts(out) >= 2, log, process)
        process.kill()
        process.wait()
    assert not (out / "_SUCCESS").exists()
    result = run(build(out))
    assert result.returncode == 0, result.stderr
    assert "resuming, finished shards: " in result.stdout
    assert digests(out) == records


def test_a_prediction_begun_here_is_finished_by_the_cluster(score, predictions, two_nodes, tmp_path: Path):
    out, log = tmp_path / "out", tmp_path / "log"
    with started(score(out), log) as process:
        wait_for(lambda: bool(list(out.glob("_part-*.json"))), log, process)
        process.kill()
        process.wait()
    assert not (out / "_SUCCESS").exists()
    result = run(score(out, *_on(two_nodes)))
    assert result.returncode == 0, result.stderr
    assert "parts are there already" in result.stderr
    assert digests(out) == predictions


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_job_with_75_and_it_goes_on(build, records, two_nodes, tmp_path: Path, number: int):
    out, log = tmp_path / "out", tmp_path / "log"
    with started(build(out, *_on(two_nodes)), log) as process:
        wait_for(lambda: _receipts(out) >= 1, log, process)
        os.killpg(process.pid, number)
        assert process.wait(timeout=60) == 75, log.read_text()
    assert "run the same command again" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert not (out / ".staging").exists()
    result = run(build(out, *_on(two_nodes)))
    assert result.returncode == 0, result.stderr
    assert digests(out) == records


def test_a_second_driver_on_the_same_output_is_refused(build, two_nodes, tmp_path: Path):
    out, log = tmp_path / "out", tmp_path / "log"
    with started(build(out, *_on(two_nodes)), log) as process:
        wait_for(lambda: _receipts(out) >= 1, log, process)
        process.send_signal(signal.SIGSTOP)  # or it would be done before the second has begun
        result = run(build(out, *_on(two_nodes)))
        process.send_signal(signal.SIGCONT)
        assert result.returncode == 1, result.stderr
        assert "another process is writing here" in result.stderr
        assert process.wait(timeout=240) == 0, log.read_text()


def _refused(arguments: list[str], words: tuple[str, ...]) -> None:
    result = run(arguments)
    assert result.returncode == 1, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    for word in words:
        assert word in line
    assert "Traceback" not in result.stderr


def test_nodes_with_other_sources_are_refused_before_any_work(build, two_nodes, tmp_path: Path):
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / "other" / "convnext_imagenet" / room)
    with (tmp_path / "other" / "convnext_imagenet" / "ingest" / "shards" / "shard_writer.py").open("a") as file:
        file.write("# changed\n")
    _kill_second(two_nodes)
    path = os.pathsep.join([str(tmp_path / "other"), os.environ.get("PYTHONPATH", "")])
    two_nodes.add(PYTHONPATH=path)
    try:
        _wait_for_nodes(two_nodes, 2)
        _refused(build(tmp_path / "out", *_on(two_nodes)), ("its software differs", "sources of convnext_imagenet"))
        assert not (tmp_path / "out").exists()
    finally:
        two_nodes.kill()


def test_an_output_folder_that_is_local_to_a_node_is_refused_before_any_work(build, two_nodes, tmp_path: Path):
    (tmp_path / "local").mkdir()
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{tmp_path}/local" && exec "$0" "$@"']
    if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to a mount namespace")
    _kill_second(two_nodes)
    two_nodes.add(*hide)
    try:
        _wait_for_nodes(two_nodes, 2)
        _refused(build(tmp_path / "local" / "out", *_on(two_nodes)), ("cannot use the output folder", "shared folder"))
        assert list((tmp_path / "local").iterdir()) == []
    finally:
        two_nodes.kill()


def test_an_address_that_does_not_answer_is_one_line(build, score, tmp_path: Path):
    pytest.importorskip("ray")
    for arguments in (build(tmp_path / "a"), score(tmp_path / "b")):
        _refused([*arguments, "--engine", "ray", "--address", "127.0.0.1:9"], ("127.0.0.1:9", "does not answer"))
    assert not list(tmp_path.glob("[ab]"))


def _kill_second(two_nodes) -> None:
    """And wait until it is known to be gone: the next one must not be taken for it."""
    two_nodes.kill()
    _wait_for_nodes(two_nodes, 1)


def _wait_for_nodes(two_nodes, count: int) -> None:
    """Until the head knows of so many living nodes; asked by a process of its own, as this one joins no cluster."""
    script = f"import ray; ray.init({two_nodes.address!r}); print(sum(node['Alive'] for node in ray.nodes()))"
    end = time.monotonic() + 60
    while not run([sys.executable, "-c", script]).stdout.endswith(f"{count}\n"):
        assert time.monotonic() < end, f"the head does not come to know of {count} nodes"
