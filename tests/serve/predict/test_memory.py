"""Memory does not grow with the number of inputs."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ... import peak_memory
from ..conftest import write_checkpoint

INPUTS = 20_000
MANY_CLASSES, MOST_MIB = 21_841, 1500
ALLOWED_MIB = 12  # samples that were kept would take 49 MiB of pixels, rows that were kept more than that


def _score(checkpoint, out, *arguments):
    """Rows, statuses, and the peaks in MiB after a fifth and at the end."""
    script = Path(__file__).with_name("flat_memory.py")
    command = [sys.executable, script, checkpoint, out, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(peak_memory.__file__).parent)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    rows, statuses, peaks = ended.stdout.strip().splitlines()[-1].split("|")
    return rows, statuses, *map(float, peaks.split())


@pytest.mark.slow
def test_twenty_thousand_inputs_take_no_more_memory_than_a_few(checkpoint_file, tmp_path):
    rows, statuses, early, late = _score(checkpoint_file, tmp_path / "out", INPUTS, 1000, 5)
    assert (rows, statuses) == (str(INPUTS), f"{{'ok': {INPUTS}}}")
    assert late - early < ALLOWED_MIB, f"{early} MiB after a fifth of the inputs, {late} MiB at the end"
    assert pq.read_table(tmp_path / "out", columns=["sample_id"])["sample_id"].to_pylist() == list(range(INPUTS))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "topk", "extras"), [(500, MANY_CLASSES, ()), (4500, 5, ("logits",))])
def test_wide_rows_make_parts_of_fewer_rows(tmp_path, count, topk, extras):
    checkpoint = write_checkpoint(tmp_path / "wide.weights.safetensors", classes=MANY_CLASSES)
    rows, statuses, _, peak = _score(checkpoint, tmp_path / "out", count, 4096, topk, *extras)
    assert (rows, statuses) == (str(count), f"{{'ok': {count}}}")
    assert peak < MOST_MIB
