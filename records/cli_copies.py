"""`convnext-records` export, diff, push and pull: RECORDS elsewhere. Only options and output are here."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.cli_output import json_option, progress_option, result_on_stdout
from convnext_imagenet.base.console import LocalPath, expected_errors, progress

if TYPE_CHECKING:
    from convnext_imagenet.records.travel import Travelled


@click.command()
@click.argument("records", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    required=True,
    type=click.Choice(["parquet", "webdataset", "folder"]),
    help="parquet for Hugging Face and DuckDB, webdataset for tars, folder for a file per image.",
)
@click.option("--out", required=True, type=LocalPath(), help="Directory to create or resume.")
@json_option()
@progress_option
def export(records: Path, format_name: str, out: Path, as_json: bool) -> None:
    """Write RECORDS in a format that other programs read; the bytes of the images stay as they are.

    RECORDS is a directory or a URI. To resume a stopped export, run the same command again.
    """
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.base.signals import interruptible
        from convnext_imagenet.records.export.job import export_records
        from convnext_imagenet.records.places import place_of

        with interruptible(), progress(None, "export") as advance:
            outcome = export_records(records, out, format_name, advance)
        was_finished = not outcome.written
        report(
            {
                "records": str(place_of(records)),
                "out": out,
                "format": format_name,
                "rows": outcome.rows,
                "shards_made": outcome.written,
                "was_finished": was_finished,
            }
        )
        rows = ", ".join(f"{count:,} {split}" for split, count in outcome.rows.items())
        if was_finished:
            click.echo(f"{out}: already finished from these records, nothing to do")
            return
        click.echo(f"{out}: finished, {rows} images as {format_name}; every image compared with its SHA-256")


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--out", type=LocalPath(), help="Parquet file for the rows that differ.")
@json_option()
def diff(before: Path, after: Path, out: Path | None, as_json: bool) -> None:
    """Count the images that were added, removed, relabelled or changed between two RECORDS.

    Both are directories or URIs. Only their indexes are read.
    """
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.base.files import write_output
        from convnext_imagenet.records.compare import CHANGES, compare_records, counts_of, table_bytes
        from convnext_imagenet.records.places import place_of

        places = place_of(before), place_of(after)
        table = compare_records(*places)
        if not table.num_rows:
            click.echo("no image differs")
        else:
            click.echo("".join([f"{'':10}", *(f"{change:>12}" for change in CHANGES)]))
        for split, counts in (found := counts_of(table)).items():
            click.echo("".join([f"{split:10}", *(f"{count:>12,}" for count in counts.values())]))
        if out is not None:
            write_output(out, table_bytes(table))
            click.echo(f"{out}: {table.num_rows:,} rows")
        splits = list(dict.fromkeys(split for place in places for split in place.manifest().splits))
        by_change = {change: {split: found.get(split, {}).get(change, 0) for split in splits} for change in CHANGES}
        report({"before": str(places[0]), "after": str(places[1]), "rows": table.num_rows, "out": out} | by_change)


@click.command()
@click.argument("records", type=LocalPath())
@click.argument("uri")
@click.option("--take-over", is_flag=True, help="Push although another machine does, or did until it was killed.")
@json_option()
@progress_option
def push(records: Path, uri: str, take_over: bool, as_json: bool) -> None:
    """Copy RECORDS to a store such as s3://bucket/records; every file is read back and compared.

    What is there already is not sent again. To resume a stopped push, run the same command again.
    """
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.base.signals import interruptible
        from convnext_imagenet.base.uris import public_place
        from convnext_imagenet.records.push import push as send

        with interruptible(), progress(None, "push", unit="B") as advance:
            sent = send(records, uri, advance, take_over)
        _print_moved(public_place(uri), sent.shards, sent.bytes, "sent, read back and compared")
        report(_moved(records, uri, sent))


@click.command()
@click.argument("uri")
@click.option("--out", required=True, type=LocalPath(), help="Directory to create or resume.")
@json_option()
@progress_option
def pull(uri: str, out: Path, as_json: bool) -> None:
    """Copy RECORDS from a store such as s3://bucket/records; every file is compared with its SHA-256.

    What is there already is not fetched again. To resume a stopped pull, run the same command again.
    """
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.base.signals import interruptible
        from convnext_imagenet.records.pull import pull as fetch

        with interruptible(), progress(None, "pull", unit="B") as advance:
            fetched = fetch(uri, out, advance)
        _print_moved(str(out), fetched.shards, fetched.bytes, "fetched and compared")
        report(_moved(out, uri, fetched))


def _print_moved(place: str, shards: int, size: int, what: str) -> None:
    from convnext_imagenet.base.wording import plural

    moved = f"{plural(shards, 'shard')}, {size / 2**20:,.1f} MiB {what}" if shards else "every shard was there already"
    click.echo(f"{place}: finished; {moved}")


def _moved(records: Path, uri: str, moved: "Travelled") -> dict[str, Any]:
    """Return what --json prints of a push or pull."""
    from convnext_imagenet.base.uris import public_place

    return {
        "records": records,
        "uri": public_place(uri),
        "shards_moved": moved.shards,
        "bytes_moved": moved.bytes,
    }
