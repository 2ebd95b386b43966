"""Turns results into lines for the terminal. It prints nothing itself.

Totals come last, and each result ends with the command to run next.
"""

from pathlib import Path
from typing import Any

from convnext_imagenet.base.wording import as_word, plural, to_type
from convnext_imagenet.records.reader import Split
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.class_map import ClassMap, class_map_lines
from convnext_imagenet.serve.evaluate import Accuracy, wilson_interval
from convnext_imagenet.serve.predict.job import Summary
from convnext_imagenet.serve.report.tables import Evaluation


def accuracy_lines(accuracy: Accuracy, split: str) -> list[str]:
    """Return the fractions as the MindSpore example prints them, the counts that they come from, and the loss."""
    rows, guesses = accuracy.rows, accuracy.guesses
    fewer = "" if guesses == 5 else f" (the network has {plural(guesses, 'class')}, so this is top-{guesses})"
    return [
        str({"Top1-Acc": accuracy.top1, "Top5-Acc": accuracy.top5}),
        f"top-1 {accuracy.top1_correct}/{rows}, top-5 {accuracy.top5_correct}/{rows}{fewer}, "
        f"every row of {split} counted once",
        f"loss {accuracy.loss:.6f} (mean cross entropy with the true label, in nats)",
    ]


def rest_lines(accuracy: Accuracy, split: str, audit: Path) -> list[str]:
    """Return top-1 over all rows and over those that an audit does not doubt, each with its count and 95 % interval."""
    if accuracy.rest is None:
        return [f"{audit} flags no row of {split} that an evaluation would leave out: both numbers are the same"]
    lines = [f"all rows:  {_top1_line(accuracy)}", f"without:   {_top1_line(accuracy.rest)}"]
    left_out = plural(accuracy.rows - accuracy.rest.rows, "row")
    return [*lines, f"left out: {left_out} of {split} that {audit} flags as leaked, doubtful or blank"]


def _top1_line(accuracy: Accuracy) -> str:
    low, high = wilson_interval(accuracy.top1_correct, accuracy.rows)
    counts = f"{accuracy.top1_correct}/{accuracy.rows}"
    return f"top-1 {counts} = {accuracy.top1:.2%} (95 % interval {low:.2%} to {high:.2%})"


def accuracy_result(
    checkpoint: Checkpoint, rows: Split, accuracy: Accuracy, report: Path | None = None, full: Evaluation | None = None
) -> dict[str, Any]:
    """Return what `convnext-serve eval --json` prints; `full` is the evaluation of a report."""
    real = full.real if full else None
    return {
        "checkpoint": checkpoint.path,
        "sha256": checkpoint.sha256,
        "records": rows.folder.parent,
        "split": rows.name,
        "rows": accuracy.rows,
        "top1_correct": accuracy.top1_correct,
        "top1": accuracy.top1,
        "top5_k": accuracy.guesses,
        "top5_correct": accuracy.top5_correct,
        "top5": accuracy.top5,
        "loss": accuracy.loss,
        "report": report,
        "calibration_error": full.calibration_error if full else None,
        "real_rows": real.rows if real else None,
        "real_correct": real.correct if real else None,
    }


def subset_lines(mapped: ClassMap, everything: Accuracy, restricted: Accuracy, rows: int, split: str) -> list[str]:
    """Return the two accuracies of a network on records of other classes, each with its count."""
    lines = class_map_lines(mapped, rows - everything.rows)
    for name, accuracy, outputs in (
        (f"over all {mapped.network_outputs:,} outputs", everything, mapped.network_outputs),
        ("restricted to the classes of the records", restricted, int(mapped.is_known.sum())),
    ):
        fewer = "" if accuracy.guesses == 5 else f" (of {plural(outputs, 'class')}, so this is top-{accuracy.guesses})"
        lines += [
            f"{name}: { ({'Top1-Acc': accuracy.top1, 'Top5-Acc': accuracy.top5}) }",
            f"  top-1 {accuracy.top1_correct}/{accuracy.rows}, top-5 {accuracy.top5_correct}/{accuracy.rows}{fewer}, "
            f"rows of {split}, each counted once; loss {accuracy.loss:.6f}",
        ]
    return lines


def evaluation_lines(evaluation: Evaluation, split: str) -> list[str]:
    """Return the lines of the accuracy, then ReaL accuracy if it was counted, the calibration error, and the loss."""
    (*lines, loss), real = accuracy_lines(evaluation.accuracy, split), evaluation.real
    if real:
        share = "" if real.accuracy is None else f" ({real.accuracy:.2%})"
        lines.append(
            f"ReaL top-1 {real.correct}/{real.rows}{share}, {plural(real.unlabelled, 'image')} without ReaL labels"
        )
    error, bins = evaluation.calibration_error, len(evaluation.bins)
    return [*lines, f"expected calibration error {error:.4f} ({bins} bins)", loss]


def summary_line(out: Path | str, summary: Summary, pace: str) -> str:
    """Return what PREDICTIONS holds, how much of it this run wrote, and what to do next."""
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(summary.statuses.items()))
    return (
        f"{out}: {plural(summary.rows, 'input')}, {plural(summary.rows, 'row')} ({counts}) in "
        f"{plural(summary.parts, 'part')}, {summary.parts_made:,} written by this command in {pace}.\n"
        f"Next: query {out}/part-*.parquet with any tool that reads Parquet"
    )


def pace(images: int, seconds: float) -> str:
    """Return the seconds and, if there were images, how many per second."""
    rate = f" ({images / max(seconds, 1e-9):.1f} images/s, compilation included)" if images else ""
    return f"{seconds:.1f} s{rate}"


def next_predict(checkpoint: Path) -> str:
    """Return the command to run on a checkpoint after its accuracy is known."""
    target = f"predict CHECKPOINT={as_word(checkpoint)} IMAGES=dir OUT=predictions-out"
    return to_type(target, f"convnext-serve predict {as_word(checkpoint)} IMAGES --out PREDICTIONS")


def next_report(report: Path) -> str:
    """Return what to do with a finished report."""
    return f"open {report / 'report.html'}, or query {report / 'predictions'}/part-*.parquet"
