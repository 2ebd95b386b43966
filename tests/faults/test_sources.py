"""A source that changes under the ingest, two ingests at once, and a process of decoders that is killed."""

import os
import signal
import time
from pathlib import Path

import psutil

from convnext_imagenet.base.protocol import exclusive
from convnext_imagenet.records.reader import Records


def _kill_after_first_receipt(bench, out: Path) -> None:
    group = bench.nursery.start(bench.plan(out, rows_per_shard=4))
    while not list(out.glob("train/*.json")):
        time.sleep(0.002)
    os.killpg(group, signal.SIGKILL)
    assert bench.nursery.wait() == -signal.SIGKILL
    bench.wait_for_group_to_end(group)


def test_image_that_changed_between_kill_and_resume_is_stored_as_it_is_now(bench, own_tree: Path, tmp_path: Path):
    _kill_after_first_receipt(bench, tmp_path / "out")
    for path in own_tree.glob("train/*/*_3.JPEG"):
        data = bytearray(path.read_bytes())
        data[-8] ^= 1
        path.write_bytes(data)
    assert bench.run(tmp_path / "out", rows_per_shard=4)[0] == 0
    assert bench.run(tmp_path / "fresh", rows_per_shard=4)[0] == 0
    assert bench.digests(tmp_path / "out") == bench.digests(tmp_path / "fresh")


def test_image_that_changed_its_size_between_kill_and_resume_is_another_plan(bench, own_tree: Path, tmp_path: Path):
    _kill_after_first_receipt(bench, tmp_path / "out")
    with next(own_tree.glob("train/*/*_3.JPEG")).open("ab") as file:
        file.write(b"\0")
    code, log = bench.run(tmp_path / "out", rows_per_shard=4)
    assert code == 1
    assert "belongs to another run (differs in: source.bytes.train, source.fingerprint.train)" in log


def test_two_ingests_at_once(bench, reference: Path, tmp_path: Path):
    with exclusive(tmp_path / "out"):
        code, log = bench.run(tmp_path / "out")
    assert (code, "another process is writing here" in log) == (1, True)
    assert bench.run(tmp_path / "out")[0] == 0
    assert bench.digests(tmp_path / "out") == bench.digests(reference)


def test_killed_decoders_change_nothing(bench, reference: Path, tmp_path: Path):
    group = bench.nursery.start(bench.plan(tmp_path / "out"))
    killed: set[int] = set()
    while psutil.pid_exists(group) and len(killed) < 2:
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = process.info["cmdline"] or []
            if any("decode_worker" in word for word in line) and bench.is_of_group(process, group):
                if process.pid not in killed:
                    process.kill()
                killed.add(process.pid)
    assert bench.nursery.wait() == 0, bench.log()
    assert killed
    assert bench.digests(tmp_path / "out") == bench.digests(reference)


def test_bytes_are_stored_unchanged_and_modes_are_recorded(bench, own_tree: Path, tmp_path: Path):
    assert bench.run(tmp_path / "out")[0] == 0
    split = Records.open(tmp_path / "out").split("train")
    for row in split.read(range(split.rows), ["key", "image"]):
        [path] = own_tree.glob(f"train/*/{row['key']}.JPEG")
        assert row["image"] == path.read_bytes()
