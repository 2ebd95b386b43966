"""The report of a dry run as lines that a person reads."""

from collections.abc import Iterator, Sequence

from convnext_imagenet.launch.dry_run.kernels import ACLNN, ACLOP, AI_CPU, CPU, HCCL, HOST
from convnext_imagenet.train.dry_run import DryRunReport, GraphReport

_USUAL = {"Ascend": (ACLNN, ACLOP, AI_CPU, HOST, HCCL), "CPU": (CPU,)}  # a kind that is not here shows if it occurs
_CARD_BYTES = 61_430 << 20  # MindSpore's own line for the simulated card: 65536M, of which it uses 61430M
_NOT_PROVEN = {
    "Ascend": "numbers (all results are zeros), what CANN itself refuses, and time on a device",
    "CPU": "numbers and memory, because nothing was computed",
}


def report_lines(report: DryRunReport, what: str) -> Iterator[str]:
    """Yield the lines of a report; `what` names the configuration."""
    first = report.training[0]
    devices = f"{report.devices} device{'s' * (report.devices > 1)}"
    yield f"{what} on {devices}: {report.target} ({report.libraries}), {report.classes} classes"
    yield ""
    yield from _aligned(_table(report))
    yield ""
    total = f"a step of one device: {report.launches:,} launches, {_gb(report.moved_bytes)} GB moved"
    yield f"{total}, {first.rows * max(1, first.runs):,} images"
    if report.memory is not None and report.train_memory is not None:
        yield f"peak device memory: {_gb(report.train_memory)} GB in training, {_gb(report.memory)} GB with evaluation"
        if report.memory > _CARD_BYTES:
            yield f"  more than the {_gb(_CARD_BYTES)} GB that MindSpore uses of a card of 64 GiB"
    if report.online_compilations:
        yield f"different aclop kernels, compiled by CANN at first use: {report.online_compilations:,}"
    seconds = f"{report.train_compile_s:.0f} s for training, {report.eval_compile_s:.0f} s for evaluation"
    yield f"compile time of MindSpore on this machine: {seconds}"
    yield f"not proven by a dry run: {_NOT_PROVEN[report.target]}"


def _table(report: DryRunReport) -> list[list[str]]:
    found = {kind for graph in report.graphs for kind in graph.kinds}
    kinds = [*_USUAL[report.target], *sorted(found - {*_USUAL[report.target]})]
    rows = [["graph", "rows", "a step", "kernels", *kinds, "GB moved"]]
    return [*rows, *(_row(graph, kinds) for graph in report.graphs)]


def _row(graph: GraphReport, kinds: Sequence[str]) -> list[str]:
    counts = [f"{graph.kinds[kind]:,}" for kind in kinds]
    rows, runs = (str(number) if number else "-" for number in (graph.rows, graph.runs))
    return [graph.name, rows, runs, f"{len(graph.kernels):,}", *counts, _gb(graph.moved_bytes)]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        yield "  ".join(
            [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f}" if count >= 1e9 else f"{count / 1e9:.3f}"
