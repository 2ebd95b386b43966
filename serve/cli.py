"""`convnext-serve`: evaluate a network, write its predictions to Parquet, classify single images."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.cli_output import json_option, progress_option, result_on_stdout
from convnext_imagenet.base.console import Program, expected_errors, progress, show_log_lines
from convnext_imagenet.base.signals import StopSignals
from convnext_imagenet.base.wording import plural
from convnext_imagenet.launch.cli import (
    announcing_exit,
    device_target_option,
    enter_ranks,
    launch_options,
    with_heartbeat,
)
from convnext_imagenet.serve import options
from convnext_imagenet.serve.cli_predict import predict, report_finished_parts
from convnext_imagenet.serve.cli_weights import weights as weights_command
from convnext_imagenet.serve.settings import Precision, PredictOptions, TransformOptions, Weights

if TYPE_CHECKING:  # importing these takes seconds, which --help must not
    from convnext_imagenet.launch.ranks.collectives import Ranks
    from convnext_imagenet.records.reader import Records, Split
    from convnext_imagenet.serve.checkpoint import Checkpoint
    from convnext_imagenet.serve.classify import Classification
    from convnext_imagenet.serve.report.tables import Evaluation


@click.group(cls=Program)
@click.version_option(package_name="convnext_imagenet")
def main() -> None:
    """Use a trained network. CHECKPOINT is a weights file or a RUN directory (its best epoch)."""


@main.command("eval")
@click.argument("checkpoint", type=options.PATH)
@click.option("--records", type=options.PATH, required=True, help="RECORDS directory or URI with the images.")
@click.option("--split", default="val", show_default=True, help="Split to evaluate.")
@click.option("--report", type=options.PATH, help="Also write predictions, tables and an HTML page to this directory.")
@click.option("--real", type=options.PATH, help="With --report: real.json of the ReaL labels; adds accuracy on them.")
@click.option(
    "--without",
    type=options.PATH,
    metavar="AUDIT|FILE",
    help="Also print the accuracy without the rows that this audit of RECORDS, or its file of decisions, doubts.",
)
@click.option(
    "--class-map",
    type=options.PATH,
    help="Text file of lines 'WNID-OF-THE-NETWORK WNID-OF-THE-RECORDS': which outputs mean which class.  "
    "[default: the same wnids]",
)
@options.weights
@options.transform
@options.flip
@options.precision
@options.batch_size
@options.workers
@json_option()
@progress_option
@launch_options
def eval_command(
    checkpoint: Path, records: Path, split: str, report: Path | None, real: Path | None, without: Path | None,
    class_map: Path | None, weights: Weights, transform: TransformOptions, flip: bool, precision: Precision,
    batch_size: int, workers: int, as_json: bool, **launch: Any,
) -> None:  # fmt: skip
    """Print the exact accuracy of CHECKPOINT over every row of a split.

    If the records have other classes than CHECKPOINT, these are matched by wnid and two numbers are printed: over all
    outputs, and restricted to the classes of the records.

    --report also writes one row per image (predictions/), accuracy by class, confused pairs, calibration, and an HTML
    page with the worst classes and their images. To resume an interrupted report, run the same command again.
    """
    if real and not report:
        raise click.UsageError("--real needs --report DIRECTORY: the accuracy on ReaL labels is written there")
    if without and report:
        raise click.UsageError("--without prints two numbers and writes no report; leave --report out")
    if class_map and report:
        raise click.UsageError(
            "--report needs records with the classes of CHECKPOINT; leave out --class-map or --report"
        )
    show_log_lines()
    with announcing_exit(), expected_errors(), result_on_stdout(as_json) as print_result:
        from convnext_imagenet.base.schemes import is_uri
        from convnext_imagenet.records.cached import local_records

        if is_uri(records):  # before hours of fetching
            _check_header(checkpoint, weights)
        # A URI may hold secrets. Before there are ranks: a rank that fetches for hours would count as hung.
        records = local_records(records, (split,), lambda line: click.echo(line, err=True))
        ranks, target = _start_evaluation(launch, report)

        from convnext_imagenet.records.reader import Records
        from convnext_imagenet.serve.checkpoint import load_checkpoint
        from convnext_imagenet.serve.class_map import map_classes
        from convnext_imagenet.serve.errors import ServeError
        from convnext_imagenet.serve.evaluate import EvaluationSettings, evaluate, evaluate_subset
        from convnext_imagenet.serve.messages import (
            accuracy_lines,
            accuracy_result,
            next_predict,
            pace,
            rest_lines,
            subset_lines,
        )

        loaded = load_checkpoint(checkpoint, weights).evaluated_with(transform)
        opened = ranks.first_rank_first(lambda: Records.open(records))
        rows = opened.split(split)
        mapped = map_classes(loaded, opened.classes, records, class_map)
        if report:
            if mapped is not None:
                raise ServeError(
                    f"{loaded.path}: has {plural(mapped.network_outputs, 'class')}, {records} has "
                    f"{len(mapped.wnids)}, and --report needs the same in the same order; leave out --report, "
                    f"and the classes are matched"
                )
            from convnext_imagenet.serve.report.report import report_options

            predict_options = report_options(batch_size, workers, target, flip, precision)
            evaluation = _evaluate_into(report, real, loaded, rows, predict_options, ranks)
            if evaluation is not None:
                print_result(accuracy_result(loaded, rows, evaluation.accuracy, report, evaluation))
            return
        if mapped is not None and without:
            raise ServeError("--without needs records with the classes of CHECKPOINT; leave it out here")
        left_out = _doubted_rows(without, opened, split) if without else set()
        run = partial(evaluate, left_out=left_out) if mapped is None else partial(evaluate_subset, mapped)
        started, own = time.monotonic(), rows.rows // ranks.own.world
        with StopSignals("run the same command again", second_ends=True) as stop, progress(own, f"eval {split}") as bar:
            settings = EvaluationSettings(flip, ranks, with_heartbeat(bar, "evaluating"), lambda: stop.received)
            classifier = loaded.classifier(precision=precision)
            found: Any = run(classifier, loaded.card.transform, rows, batch_size, workers, settings)
        if mapped is None:
            click.echo("\n".join(accuracy_lines(found, split)))
            if without:
                click.echo("\n".join(rest_lines(found, split, without)))
        else:
            click.echo("\n".join(subset_lines(mapped, found[0], found[1], rows.rows, split)))
        if ranks.own.is_first:
            print_result(accuracy_result(loaded, rows, *([found] if mapped is None else found)))
        rate = pace(rows.rows, time.monotonic() - started)
        click.echo(f"{loaded.path} evaluated on {records} in {rate}.\nNext: {next_predict(checkpoint)}", err=True)


def _check_header(checkpoint: Path, weights: Weights) -> None:
    """Raise ServeError for a CHECKPOINT that is missing, truncated or of another program; without MindSpore."""
    from convnext_imagenet.serve.pointers import resolve_checkpoint
    from convnext_imagenet.serve.weights.inspecting import inspect_weights

    inspect_weights(resolve_checkpoint(checkpoint, weights))


def _doubted_rows(audit: Path, records: "Records", split: str) -> set[int]:
    """Return the sample ids of the split that an audit doubts. Raises ArtefactError for an audit of other records."""
    from convnext_imagenet.records.audit.decisions import open_judged
    from convnext_imagenet.records.audit.doubted import doubted_sample_ids

    return doubted_sample_ids(open_judged(audit), records, split)


def _start_evaluation(launch: dict[str, Any], report: Path | None) -> "tuple[Ranks, str]":
    if report is None:
        return enter_ranks(launch)

    from convnext_imagenet.base.protocol import logs_folder
    from convnext_imagenet.serve.report.folder import check_report_folder, predictions_folder

    logs = logs_folder(predictions_folder(report), "predictions")
    return enter_ranks(launch, logs, lambda: check_report_folder(report))


def _evaluate_into(
    report: Path, real: Path | None, loaded: "Checkpoint", rows: "Split",
    predict_options: PredictOptions, ranks: "Ranks",
) -> "Evaluation | None":  # fmt: skip
    """Write the report; return what it holds, on the first rank."""
    from convnext_imagenet.serve.messages import evaluation_lines, next_report, pace
    from convnext_imagenet.serve.predict.job import LocalRunner
    from convnext_imagenet.serve.report.report import begin_report

    with (
        StopSignals(f"run the same command again to resume in {report}", second_ends=True) as stop,
        begin_report(report, loaded, rows, real, predict_options, ranks) as made,
    ):
        todo, started = report_finished_parts(made.job), time.monotonic()
        with progress(todo, f"eval {rows.name}") as bar:
            made.job.run(with_heartbeat(bar, "evaluating"), LocalRunner(lambda: stop.received))
        seconds = time.monotonic() - started
        if not ranks.own.is_first:
            return None
        evaluation = made.write()
    click.echo("\n".join(evaluation_lines(evaluation, rows.name)))
    rate = pace(todo * ranks.own.world, seconds)
    click.echo(f"{loaded.path} evaluated on {rows.folder.parent} in {rate}.\nNext: {next_report(report)}", err=True)
    return evaluation


@main.command()
@click.argument("predictions", type=options.PATH_OR_URI)
@json_option()
@progress_option
def verify(predictions: Path | str, as_json: bool) -> None:
    """Read PREDICTIONS, a directory or a URI, and check every byte, row and count.

    There must be one row for each input, in order, and all hashes and counts must be as recorded.
    """
    with expected_errors(), result_on_stdout(as_json) as print_result:
        from convnext_imagenet.serve.errors import ServeError
        from convnext_imagenet.serve.predict.place import open_place
        from convnext_imagenet.serve.predict.verify import verify_predictions

        with progress(None, "verify", unit="row") as advance, _local_copy(predictions) as folder:
            checked = verify_predictions(folder, advance)
        shown = open_place(predictions)
        problems = [problem.replace(str(folder), str(shown)) for problem in checked.problems]
        print_result({"predictions": str(shown), "rows": checked.rows, "problems": problems})
        for problem in problems:
            click.echo(problem, err=True)
        if problems:
            raise ServeError(
                f"{shown}: {plural(len(problems), 'problem')}; delete the parts listed above, their "
                f"receipts and _SUCCESS, then run the same `convnext-serve predict` again"
            )
        click.echo(f"{shown}: {plural(checked.rows, 'row')}, one for each input, all bytes as recorded")


@main.command()
@click.argument("predictions", type=options.PATH_OR_URI)
@click.argument("table")
@click.option(
    "--to", "table_format", type=click.Choice(["delta", "iceberg", "lance"]), required=True,
    help="Format of the table; each needs the extra of its name.",
)  # fmt: skip
def commit(predictions: Path | str, table: str, table_format: str) -> None:
    """Append finished PREDICTIONS to TABLE in one snapshot.

    TABLE is a URI, or CATALOG.NAMESPACE.TABLE for Iceberg. The same PREDICTIONS are never appended twice.
    """
    with expected_errors():
        from convnext_imagenet.serve.predict.commit import commit_predictions

        with _local_copy(predictions) as folder:
            is_new = commit_predictions(folder, table_format, table)
        click.echo(f"{table}: {'one new snapshot with' if is_new else 'already has'} the rows of these predictions")


@contextlib.contextmanager
def _local_copy(predictions: Path | str) -> Iterator[Path]:
    """Yield the folder of PREDICTIONS; that of a store as a copy, which is removed afterwards.

    An error of the block names the place in the store.
    """
    from convnext_imagenet.base.errors import ArtefactError
    from convnext_imagenet.serve.predict.place import LocalPlace, open_place

    place = open_place(predictions)
    if isinstance(place, LocalPlace):
        yield place.root
        return
    with tempfile.TemporaryDirectory(prefix="convnext-verify-") as folder:
        place.download(Path(folder))
        try:
            yield Path(folder)
        except ArtefactError as error:
            raise type(error)(str(error).replace(folder, str(place))) from None


@main.command()
@click.argument("checkpoint", type=options.PATH)
@click.argument("files", metavar="FILE...", type=options.PATH, nargs=-1, required=True)
@click.option("--out", type=options.PATH, help="Write the labelled picture here; for several files, a directory.")
@options.topk
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line: file, status, error, topk.")
@options.precision
@options.workers
@device_target_option
def infer(
    checkpoint: Path, files: tuple[Path, ...], out: Path | None, topk: int, as_json: bool, precision: Precision,
    workers: int, device_target: str,
) -> None:  # fmt: skip
    """Print the best classes of each image FILE, with probabilities. A folder means its visible files."""
    show_log_lines()
    with expected_errors():
        from convnext_imagenet.launch.devices import choose_target
        from convnext_imagenet.model.runtime import prepare

        prepare(choose_target(device_target).target)

        from convnext_imagenet.serve.checkpoint import load_checkpoint
        from convnext_imagenet.serve.classify import classify_files, find_files, plan_pictures
        from convnext_imagenet.serve.errors import ServeError
        from convnext_imagenet.serve.messages import next_predict

        images = find_files(files)
        pictures = plan_pictures(images, out) if out else [None] * len(images)
        with progress(len(images), "infer") as advance:
            results = classify_files(load_checkpoint(checkpoint), images, topk, workers, advance, precision)
        for result, picture in zip(results, pictures, strict=True):
            _print_classification(result, picture, as_json)
        failed = [result for result in results if result.error]
        if failed:
            raise ServeError(
                f"{len(failed)} of {plural(len(images), 'file')} could not be read, the first is {failed[0].path}; "
                f"see the lines above"
            )
        hint = "" if out else "; --out picture.jpg draws the label into a picture"
        click.echo(f"{plural(len(images), 'image')} classified{hint}.\nNext: {next_predict(checkpoint)}", err=True)


def _print_classification(result: "Classification", picture: Path | None, as_json: bool) -> None:
    from convnext_imagenet.serve.classify import classification_json, classification_lines, write_picture

    if as_json:
        click.echo(classification_json(result))
    if result.error:
        reason = result.error.removeprefix(f"{result.status}: ")  # which some errors begin with
        click.echo(f"{result.path}: {result.status}: {reason}", err=True)
        return
    if not as_json:
        click.echo("\n".join(classification_lines(result)))
    if picture:
        write_picture(result, picture)
        click.echo(f"  labelled picture: {picture}", err=as_json)


main.add_command(predict)
main.add_command(weights_command)
