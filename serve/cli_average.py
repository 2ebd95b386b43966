"""`convnext-serve weights average`: its options, and what it prints; weights/averaging.py does the work."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.cli_output import json_option, progress_option, result_on_stdout
from convnext_imagenet.base.console import expected_errors, own_lines, progress, show_log_lines
from convnext_imagenet.launch.cli import device_target_option
from convnext_imagenet.serve import options

if TYPE_CHECKING:  # importing these takes seconds, which --help must not
    from convnext_imagenet.records.reader import Split
    from convnext_imagenet.serve.checkpoint import Checkpoint
    from convnext_imagenet.serve.weights.averaging import Score, Soup

_UNIFORM, _GREEDY = "uniform", "greedy"


@click.command()
@click.argument("checkpoints", metavar="CHECKPOINT...", type=options.PATH, nargs=-1, required=True)
@click.option("--out", type=options.PATH, required=True, help="Checkpoint to write, such as soup.safetensors.")
@click.option(
    "--method",
    type=click.Choice([_UNIFORM, _GREEDY]),
    help="Average all, or only those that do not lower the accuracy on val.  [default: greedy with --records]",
)
@click.option("--records", type=options.PATH, help="RECORDS to count right answers on; --split chooses the split.")
@click.option("--split", default="val", show_default=True, help="Split to choose by.")
@options.batch_size
@options.workers
@json_option()
@progress_option
@device_target_option
def average(
    checkpoints: tuple[Path, ...], out: Path, method: str | None, records: Path | None, split: str, batch_size: int,
    workers: int, as_json: bool, device_target: str,
) -> None:  # fmt: skip
    """Average CHECKPOINTs that were fine-tuned from the same weights (model soups).

    The average costs no more to run than one of them. Its card lists all files, which were taken, and right answers.
    """
    if records is None:
        options.refuse_without("--records", "split", "batch_size", "workers")
    show_log_lines()
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.launch.devices import choose_target
        from convnext_imagenet.model.runtime import prepare

        prepare(choose_target(device_target).target)

        from convnext_imagenet.records.reader import Records
        from convnext_imagenet.serve.checkpoint import check_classes, load_checkpoint
        from convnext_imagenet.serve.weights.averaging import average_checkpoints, publish_soup

        loaded = [load_checkpoint(path) for path in checkpoints]
        rows = None
        if records is not None:
            opened = Records.open(records)
            rows = opened.split(split)
            check_classes(loaded[0], opened.classes, records)
        chosen = method or (_UNIFORM if rows is None else _GREEDY)
        with _counting(rows, _evaluations(len(loaded), chosen), batch_size, workers) as score:
            soup = average_checkpoints(loaded, chosen, score)
        is_new = publish_soup(soup, out)
        found = _result(soup, loaded, rows, out, is_new)
        click.echo("\n".join(_lines(found)))
        report(found)


def _evaluations(checkpoints: int, method: str) -> int:
    """Return how many networks are evaluated: each checkpoint, and their average or all averages that are tried."""
    return checkpoints + (1 if method == _UNIFORM else checkpoints - 1)


@contextlib.contextmanager
def _counting(rows: "Split | None", evaluations: int, batch_size: int, workers: int) -> "Iterator[Score | None]":
    """Yield what counts the rows that a network gets right, under one bar; None without rows."""
    if rows is None:
        yield None
        return

    from convnext_imagenet.serve.evaluate import EvaluationSettings, evaluate

    with progress(evaluations * rows.rows, f"eval {rows.name}", units=f"of {evaluations} networks") as bar:

        def count_right(checkpoint: "Checkpoint") -> int:
            settings = EvaluationSettings(on_progress=bar)
            found = evaluate(checkpoint.classifier(), checkpoint.card.transform, rows, batch_size, workers, settings)
            bar.count_unit()
            with own_lines():
                click.echo(f"top-1 {found.top1_correct}/{found.rows}", err=True)
            return found.top1_correct

        yield count_right


def _result(soup: "Soup", loaded: "list[Checkpoint]", rows: "Split | None", out: Path, is_new: bool) -> dict[str, Any]:
    """Return what was averaged as the object of --json; docs/json.md has its keys."""
    made = soup.card.provenance["average"]
    members = [
        {"checkpoint": checkpoint.path, "sha256": member["sha256"]}
        | {"is_taken": member["taken"], "top1_correct": member["val_correct"]}
        for checkpoint, member in zip(loaded, made["checkpoints"], strict=True)
    ]
    return {
        "out": out,
        "is_new": is_new,
        "method": made["method"],
        "split": None if rows is None else rows.name,
        "rows": None if rows is None else rows.rows,
        "top1_correct": made["val_correct"],
        "members": members,
    }


def _lines(found: dict[str, Any]) -> list[str]:
    """Return the same as lines of text."""

    def right(correct: int | None) -> str:
        return "" if correct is None else f", top-1 {correct}/{found['rows']}"

    members = found["members"]
    own, taken = right(found["top1_correct"]), sum(member["is_taken"] for member in members)
    return [
        *(
            f"{member['checkpoint']}: {'taken' if member['is_taken'] else 'left out'}{right(member['top1_correct'])}"
            for member in members
        ),
        f"{found['out']}: {found['method']} average of {taken} of {len(members)} checkpoints"
        f"{f'{own} of ' + found['split'] if own else ''}, "
        f"{'written' if found['is_new'] else 'there already with the same bytes'}",
    ]
