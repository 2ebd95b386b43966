"""Which kernels Ascend runs for us: a table that was reviewed, and what must never be in a graph.

Regenerate the table after a review of the difference: `CONVNEXT_REGENERATE=1 .venv/bin/pytest tests/ascend -m ascend`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from convnext_imagenet.launch.dry_run.kernels import AI_CPU, HOST, Kernel, TensorType
from convnext_imagenet.train.dry_run import DryRunReport

TABLE = Path(__file__).with_name("kernels.json")
MOST_INPUTS = 32  # CANN's graph compiler cuts AddN into groups of 62; kernel by kernel nothing does
LARGEST_INT64_BYTES = 1_000_000


def _kernels(reports: Mapping[str, DryRunReport]) -> Iterator[tuple[str, Kernel]]:
    """Every kernel of every graph, with the name of both."""
    for name, report in reports.items():
        for graph in report.graphs:
            yield from ((f"{name}, {graph.name}", kernel) for kernel in graph.kernels)


def _types(kernel: Kernel) -> str:
    """Such as "Float32+Int64->Float32": the types of its tensors, each once."""
    sides = ({tensor.dtype for tensor in tensors} for tensors in (kernel.inputs, kernel.outputs))
    return "->".join("+".join(sorted(side)) for side in sides)


def _lines(found: Iterator[tuple[str, Kernel]]) -> list[str]:
    """One line for each kind of offender, so that a failure can be read."""
    return sorted({f"{where}: {kernel.primitive} ({kernel.kind}) {_types(kernel)}" for where, kernel in found})


def test_every_kernel_is_in_the_reviewed_table(reports: Mapping[str, DryRunReport], is_regenerating: bool) -> None:
    found: dict[str, set[str]] = {}
    for _, kernel in _kernels(reports):
        found.setdefault(f"{kernel.primitive} {kernel.kind}", set()).add(_types(kernel))
    table = {name: sorted(types) for name, types in sorted(found.items())}
    if is_regenerating:
        TABLE.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in table.items()) + "\n}\n")
    reviewed = json.loads(TABLE.read_text())
    new = {name: sorted({*types} - {*reviewed.get(name, ())}) for name, types in table.items()}
    new = {name: types for name, types in new.items() if types}
    gone = {name: sorted({*types} - {*table.get(name, ())}) for name, types in reviewed.items()}
    gone = {name: types for name, types in gone.items() if types}
    assert not new, f"kernels that nobody reviewed (does CANN have them for these types?): {new}"
    assert not gone, f"kernels that no graph has any more; regenerate the table: {gone}"


def test_no_kernel_runs_on_the_host_or_on_the_ai_cpu(reports: Mapping[str, DryRunReport]) -> None:
    assert not _lines((where, kernel) for where, kernel in _kernels(reports) if kernel.kind in (HOST, AI_CPU))


def test_no_tensor_is_float64_or_has_a_dynamic_shape(reports: Mapping[str, DryRunReport]) -> None:
    offenders = (
        (where, kernel)
        for where, kernel in _kernels(reports)
        if any(tensor.dtype == "Float64" or min(tensor.shape, default=0) < 0 for tensor in _tensors(kernel))
    )
    assert not _lines(offenders)


def test_no_large_tensor_is_int64(reports: Mapping[str, DryRunReport]) -> None:
    offenders = (
        (where, kernel)
        for where, kernel in _kernels(reports)
        if any(tensor.dtype == "Int64" and tensor.size_bytes > LARGEST_INT64_BYTES for tensor in _tensors(kernel))
    )
    assert not _lines(offenders)


@pytest.mark.parametrize("primitive", ["AddN", "Concat"])
def test_no_kernel_takes_very_many_tensors(reports: Mapping[str, DryRunReport], primitive: str) -> None:
    offenders = {
        f"{where}: {primitive} of {len(kernel.inputs)} tensors"
        for where, kernel in _kernels(reports)
        if kernel.primitive == primitive and len(kernel.inputs) > MOST_INPUTS
    }
    assert not offenders


def _tensors(kernel: Kernel) -> tuple[TensorType, ...]:
    return (*kernel.inputs, *kernel.outputs)
