"""Memory does not grow with the number of inputs."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

INPUTS = 20_000
ALLOWED_MIB = 12  # samples that were kept would take 49 MiB of pixels, rows that were kept more than that


@pytest.mark.slow
def test_twenty_thousand_inputs_take_no_more_memory_than_a_few(checkpoint_file, tmp_path):
    script = Path(__file__).with_name("flat_memory.py")
    command = [sys.executable, script, checkpoint_file, tmp_path / "out", str(INPUTS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    rows, statuses, peaks = ended.stdout.strip().splitlines()[-1].split("|")
    early, late = map(float, peaks.split())
    assert (rows, statuses) == (str(INPUTS), f"{{'ok': {INPUTS}}}")
    assert late - early < ALLOWED_MIB, f"{early} MiB after a fifth of the inputs, {late} MiB at the end"
    assert pq.read_table(tmp_path / "out", columns=["sample_id"])["sample_id"].to_pylist() == list(range(INPUTS))
