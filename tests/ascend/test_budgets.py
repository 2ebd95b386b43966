"""What a training step costs on Ascend, by counts that a dry run gives. A budget may only fall.

A change that lowers a figure lowers it here: `CONVNEXT_REGENERATE=1 .venv/bin/pytest tests/ascend -m ascend` does so.
It also raises figures; then the difference needs a reason in DECISIONS.md.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from convnext_imagenet.launch.dry_run.kernels import ACLOP
from convnext_imagenet.train.dry_run import DryRunReport

from .configurations import FULL, TINY

BUDGETS = Path(__file__).with_name("budgets.json")
SLACK = 0.02  # below the budget by more: the file must follow, or it would hide the next rise


def _figures(report: DryRunReport, with_memory: bool) -> dict[str, int]:
    """The figures of a training step of one device; only the first configuration of a process has its own peak."""
    figures = {
        "launches": report.launches,
        "aclop": sum(graph.runs * graph.kinds[ACLOP] for graph in report.training),
        "all_reduces": sum(graph.runs * graph.all_reduces for graph in report.training),
        "megabytes_moved": round(report.moved_bytes / 1e6),
    }
    return figures | ({"megabytes_at_peak": round((report.train_memory or 0) / 1e6)} if with_memory else {})


@pytest.mark.parametrize("name", [*FULL, *TINY])
def test_a_step_costs_no_more_than_its_budget(
    reports: Mapping[str, DryRunReport], name: str, is_regenerating: bool
) -> None:
    figures = _figures(reports[name], name in FULL)
    budgets = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
    if is_regenerating:
        budgets[name] = figures
        lines = (f"{json.dumps(one)}: {json.dumps(budgets[one])}" for one in (*FULL, *TINY) if one in budgets)
        BUDGETS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    assert budgets.keys() <= (FULL | TINY).keys()
    budget = budgets[name]
    above = {key: (figure, budget[key]) for key, figure in figures.items() if figure > budget[key]}
    below = {key: (figure, budget[key]) for key, figure in figures.items() if figure < (1 - SLACK) * budget[key]}
    assert not above, f"(now, budget): {above}"
    assert not below, f"(now, budget): {below}: good; lower {BUDGETS.name} with {'CONVNEXT_REGENERATE=1'}"
