"""Turns results into lines for the terminal."""

from pathlib import Path

from convnext_imagenet.serve.evaluate import Accuracy
from convnext_imagenet.serve.predict.job import Summary
from convnext_imagenet.serve.report.tables import Evaluation


def accuracy_lines(accuracy: Accuracy, split: str) -> list[str]:
    """The fractions as the MindSpore example prints them, then the counts that they come from."""
    rows, guesses = accuracy.rows, accuracy.guesses
    fewer = "" if guesses == 5 else f" (the network knows {guesses} classes: top-{guesses})"
    return [
        str({"Top1-Acc": accuracy.top1, "Top5-Acc": accuracy.top5}),
        f"top-1 {accuracy.top1_correct}/{rows}, top-5 {accuracy.top5_correct}/{rows}{fewer}, "
        f"every row of {split} counted once",
    ]


def evaluation_lines(evaluation: Evaluation, split: str) -> list[str]:
    """The lines of the accuracy, then ReaL accuracy where it was counted, and the calibration error."""
    lines, real = accuracy_lines(evaluation.accuracy, split), evaluation.real
    if real:
        share = "" if real.accuracy is None else f" ({real.accuracy:.2%})"
        lines.append(f"ReaL top-1 {real.correct}/{real.rows}{share}, {real.unlabelled} images without ReaL labels")
    error, bins = evaluation.calibration_error, len(evaluation.bins)
    return [*lines, f"expected calibration error {error:.4f} ({bins} bins)"]


def summary_line(out: Path, summary: Summary, pace: str) -> str:
    """What PREDICTIONS holds, how much of it was made now, and what to do with it."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary.statuses.items()))
    return (
        f"{out}: {summary.rows} inputs, {summary.rows} rows ({counts}) in {summary.parts} parts, "
        f"{summary.parts_made} of them made now in {pace}. "
        f"Next: query {out}/part-*.parquet with any tool that reads Parquet"
    )


def pace(images: int, seconds: float) -> str:
    """Seconds, and images in each of them."""
    return f"{seconds:.1f} s ({images / max(seconds, 1e-9):.1f} images/s, compilation included)"


def next_predict(checkpoint: Path) -> str:
    """What to do with a checkpoint whose accuracy is known."""
    return f"convnext-serve predict {checkpoint} IMAGES --out PREDICTIONS"


def next_report(report: Path) -> str:
    """What to do with a report."""
    return f"open {report / 'report.html'}, or query {report / 'predictions'}/part-*.parquet"
