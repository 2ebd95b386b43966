"""Turns the summary of an audit into lines for the terminal and an object for programs. It prints nothing itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.base.wording import plural, share
from convnext_imagenet.records.audit.flags import KINDS
from convnext_imagenet.records.audit.summary import is_alike


def are_alike(summary: Mapping[str, Any]) -> bool:
    """Return whether so many images are near others that these may be no copies, but alike, as digits are."""
    return is_alike(summary["pairs"]["images_in_near_pairs"], sum(summary["images"].values()))


def audit_lines(out: Path, summary: Mapping[str, Any]) -> list[str]:
    """Return what was found, totals last, and what to do next."""
    pairs, candidates = summary["pairs"], summary["candidates"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(pairs["kinds"].items())) or "none"
    lines = [f"  {kind}: {count:,} ({KINDS[kind]})" for kind, count in summary["flags"].items() if count]
    if summary["label_noise"]:
        judged = ", ".join(f"{summary['images'][split]:,} of {split}" for split in summary["label_noise"])
        lines.append(f"  labels judged: {judged}; doubtful: {summary['flags'].get('label', 0):,}")
    if candidates["left_out"]:
        lines.append(f"  not compared: {plural(candidates['left_out'], 'pair')} of images with very many alike ones")
    if are_alike(summary):
        near = pairs["images_in_near_pairs"] / sum(summary["images"].values())
        lines.append(
            f"  {share(near)} of the images are near another one: frames of a video may be, but also digits or "
            f"drawings, which are no copies; look at the report before you drop any"
        )
    images = sum(summary["images"].values())
    if summary["decoded"] < images:
        lines.append(
            f"  decoded {summary['decoded']:,} of {plural(images, 'image')}: the others have stored pictures, and no "
            f"picture is near theirs"
        )
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
        "decoded": summary["decoded"],
        "pairs": pairs["total"],
        "across_splits": pairs["across_splits"],
        "different_labels": pairs["different_labels"],
        "left_out": summary["candidates"]["left_out"],
        "flags": summary["flags"],
    }
