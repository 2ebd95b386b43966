"""`convnext-records export`: RECORDS in other formats. Only options and output are here."""

from pathlib import Path

import click

from convnext_imagenet.base.console import expected_errors, progress


@click.command()
@click.argument("records", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    required=True,
    type=click.Choice(["parquet", "webdataset", "folder"]),
    help="parquet for Hugging Face and DuckDB, webdataset for tars, folder for a file per image.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Directory to create or resume.")
def export(records: Path, format_name: str, out: Path) -> None:
    """Write RECORDS in a format that other programs read; the bytes of the images stay as they are.

    RECORDS is a directory or a URI. To resume a stopped export, run the same command again.
    """
    with expected_errors():
        from convnext_imagenet.base.signals import interruptible
        from convnext_imagenet.records.export.job import export_records

        with interruptible(), progress(None, "export") as advance:
            outcome = export_records(records, out, format_name, advance)
        rows = ", ".join(f"{count:,} {split}" for split, count in outcome.rows.items())
        if not outcome.written:
            click.echo(f"{out}: already finished from these records, nothing to do")
            return
        click.echo(f"{out}: finished, {rows} images as {format_name}; every image compared with its SHA-256")
