"""Turns the summary of an audit into lines for the terminal and an object for programs. It prints nothing itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.base.html import plural
from convnext_imagenet.records.audit.flags import KINDS


def audit_lines(out: Path, summary: Mapping[str, Any]) -> list[str]:
    """Return what was found, totals last, and what to do next."""
    pairs, candidates = summary["pairs"], summary["candidates"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(pairs["kinds"].items())) or "none"
    lines = [f"  {kind}: {count:,} ({KINDS[kind]})" for kind, count in summary["flags"].items() if count]
    if candidates["left_out"]:
        lines.append(f"  not compared: {plural(candidates['left_out'], 'pair')} of images with very many alike ones")
    return [
        *lines,
        f"{plural(pairs['total'], 'pair')} of copies ({kinds}); {pairs['across_splits']:,} across splits, "
        f"{pairs['different_labels']:,} with different labels",
        f"{out}: finished, {plural(sum(summary['images'].values()), 'image')}",
        f"Next: open {out / 'report.html'}, or query {out / 'rows.parquet'}",
    ]


def audit_result(out: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was found as the object of --json; docs/json.md has its keys."""
    pairs = summary["pairs"]
    return {
        "audit": out,
        "images": summary["images"],
        "pairs": pairs["total"],
        "across_splits": pairs["across_splits"],
        "different_labels": pairs["different_labels"],
        "left_out": summary["candidates"]["left_out"],
        "flags": summary["flags"],
    }
