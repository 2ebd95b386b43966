"""Every node must see the same folders: nodes that do not are told apart, and no probe is left behind."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from convnext_imagenet.launch.cluster import preflight
from convnext_imagenet.launch.cluster.nodes import Node
from convnext_imagenet.launch.cluster.preflight import check_nodes, fingerprint, inspect_node
from convnext_imagenet.launch.errors import LaunchError

NODES = [Node("1", "first", {}), Node("2", "second", {})]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_VISIBLE_SECONDS", 0.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "kit.tar").write_bytes(b"abc")
    return tmp_path / "data"


def _check(out: Path, inputs: list[Path], second=lambda probe: inspect_node(probe, "2")) -> None:
    def ask(probe):
        yield NODES[0], inspect_node(probe, "1")
        yield NODES[1], second(probe)

    check_nodes(out, inputs, ask)


def test_nodes_that_see_the_same_pass_and_nothing_is_left(data: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    _check(out, [data, data / "kit.tar"])
    assert list(out.iterdir()) == []


def test_an_output_folder_that_is_local_to_a_node_is_refused_and_not_left(data: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(LaunchError, match=r"node second .*: cannot use the output folder .*out \(No such file"):
        _check(tmp_path / "out", [data], lambda probe: inspect_node(dataclasses.replace(probe, out=elsewhere), "2"))
    assert not (tmp_path / "out").exists()


def test_a_node_whose_writing_is_not_seen_here_is_refused(data: Path, tmp_path: Path):
    def stale(probe):
        elsewhere = tmp_path / "copy"
        shutil.copytree(probe.out, elsewhere)
        return inspect_node(dataclasses.replace(probe, out=elsewhere), "2")

    with pytest.raises(LaunchError, match=r"node second .*: files that it writes to .*out do not appear on this node"):
        _check(tmp_path / "out", [data], stale)


def test_other_inputs_under_the_same_path_are_refused(data: Path, tmp_path: Path):
    def other(probe):
        (data / "kit.tar").write_bytes(b"abd")
        return inspect_node(probe, "2")

    with pytest.raises(
        LaunchError, match=r"node second .*: finds 3 bytes .* at .*kit.tar, but this node finds 3 bytes"
    ):
        _check(tmp_path / "out", [data / "kit.tar"], other)


def test_other_software_is_refused(data: Path, tmp_path: Path):
    def older(probe):
        report = inspect_node(probe, "2")
        return dataclasses.replace(report, software={**report.software, "pillow": "1.0"})

    with pytest.raises(LaunchError, match=r"node second .*: its software differs .*pillow 1.0 instead of"):
        _check(tmp_path / "out", [data], older)


def test_evidence_tells_missing_shorter_renamed_and_changed_apart(data: Path):
    seen = {fingerprint(data / "none"), fingerprint(data), fingerprint(data / "kit.tar")}
    (data / "kit.tar").write_bytes(b"abx")
    seen |= {fingerprint(data), fingerprint(data / "kit.tar")}
    (data / "train").rename(data / "val")
    seen |= {fingerprint(data)}
    (data / "kit.tar").write_bytes(b"ab")
    seen |= {fingerprint(data), fingerprint(data / "kit.tar")}
    assert len(seen) == 8
    assert fingerprint(data / "none") == "nothing (No such file or directory)"
