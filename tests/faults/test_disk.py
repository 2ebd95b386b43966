"""A disk that is full, read-only, or refuses large files: one clear line, nothing lost, and the same bytes later."""

import subprocess
from pathlib import Path

import pytest

ALONE = {"is_alone": True, "rows_per_shard": 64}
PHASES = {
    "plan": "open .plan.json",
    "staging": "mkdir .staging",
    "shard": "mkdir .staging/imagenet-train-00000-of-00001",
    "receipt": "open train/.imagenet-train-00000-of-00001.json",
    "last shard": "mkdir .staging/imagenet-val-00000-of-00001",
    "quarantine": "open .quarantine.parquet",
    "index": "open .index.parquet",
    "report": "open .report.html",
    "manifest": "open .manifest.json",
    "mark": "open ._SUCCESS",
}


@pytest.fixture(scope="module")
def undisturbed(bench, tmp_path_factory) -> tuple[list[str], dict[str, str]]:
    """The steps of a run in one process, and what it makes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, log = bench.run(folder / "records", steps=str(folder / "steps"), **ALONE)
    assert code == 0, log
    return (folder / "steps").read_text().splitlines(), bench.digests(folder / "records")


def _assert_one_clear_line(code: int, log: str, *words: str) -> None:
    errors = [line for line in log.splitlines() if line.startswith("Error: ")]
    assert (code, len(errors)) == (74, 1), log
    assert "Traceback" not in log
    assert any(word in errors[0] for word in words), errors[0]


def _fill_at(bench, step: int, disk: Path, expected: dict[str, str], spare_bytes: int = 0) -> None:
    filler = disk / "filler"
    code, log = bench.run(disk / "out", at=step, filler=str(filler), spare_bytes=spare_bytes, **ALONE)
    if code:
        _assert_one_clear_line(code, log, "No space left", "free space", "disk may be full")
        assert not (disk / "out" / "_SUCCESS").exists()
    bench.assert_marked_means_whole(disk / "out")
    filler.unlink()
    code, log = bench.run(disk / "out", **ALONE)
    assert code == 0, log
    assert bench.digests(disk / "out") == expected


@pytest.mark.parametrize("phase", PHASES)
def test_disk_full_in_each_phase(bench, undisturbed, small_disk: Path, phase: str):
    steps, expected = undisturbed
    _fill_at(bench, steps.index(PHASES[phase]), small_disk, expected)


@pytest.mark.faults
@pytest.mark.parametrize("spare_kib", range(0, 700, 28))
def test_disk_full_at_any_byte_of_a_shard(bench, undisturbed, small_disk: Path, spare_kib: int):
    steps, expected = undisturbed
    _fill_at(bench, steps.index(PHASES["shard"]), small_disk, expected, spare_bytes=spare_kib << 10)


@pytest.mark.parametrize("file_bytes", [8_000, 100_000, 300_000])
def test_limited_size_of_files(bench, reference: Path, tmp_path: Path, file_bytes: int):
    code, log = bench.run(tmp_path / "out", file_bytes=file_bytes)
    _assert_one_clear_line(code, log, "File too large", "free space", "disk may be full")
    bench.assert_marked_means_whole(tmp_path / "out")
    assert bench.run(tmp_path / "out")[0] == 0
    assert bench.digests(tmp_path / "out") == bench.digests(reference)


def test_read_only_output_is_refused(bench, small_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, log = bench.run(small_disk / "out")
    assert (code, log.count("\nError: ")) == (1, 1), log
    assert "Read-only file system" in log
