"""`convnext-records`, and the habits that every command line here shares: one-line errors, progress, log lines."""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from tqdm import tqdm

from convnext_imagenet.records.errors import ExpectedError


@contextlib.contextmanager
def expected_errors(*also: type[Exception]) -> Iterator[None]:
    """Print an expected failure as one line and leave with its exit code; bugs keep their traceback."""
    expected: tuple[type[Exception], ...] = (ExpectedError, *also)
    try:
        yield
    except expected as error:
        click.echo("Error: " + " ".join(str(error).splitlines()), err=True)
        sys.exit(getattr(error, "exit_code", 1))
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        click.echo(f"Error: {error.filename or 'input or output'}: {error.strerror}", err=True)
        sys.exit(1)


@contextlib.contextmanager
def progress(total: int | None, desc: str, unit: str = "img") -> Iterator[Callable[[int], None]]:
    """A bar on standard error with rate and time left; yields the function that moves it on by n."""
    with tqdm(total=total, desc=desc, unit=unit, dynamic_ncols=True, mininterval=0.5) as bar:
        yield lambda count: bar.update(count) and None


class _Screen(logging.Handler):
    """Prints on the standard error of the moment, past a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def show_log_lines() -> None:
    """Show what our packages log from level INFO up; a second call changes nothing."""
    ours = logging.getLogger("convnext_imagenet")
    if not any(isinstance(handler, _Screen) for handler in ours.handlers):
        ours.addHandler(_Screen())
        ours.setLevel(logging.INFO)


@click.group()
@click.version_option(package_name="convnext_imagenet")
def main() -> None:
    """Look into a RECORDS directory: what it holds, and whether it is whole."""


@main.command()
@click.argument("records", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def show(records: Path, as_json: bool) -> None:
    """Print what RECORDS holds: splits, classes, source, versions."""
    with expected_errors():
        from convnext_imagenet.records.artefact import read_finished
        from convnext_imagenet.records.manifest import Manifest

        manifest = Manifest.from_json(read_finished(records, "records"))
        if as_json:
            click.echo(json.dumps(manifest.to_json(), indent=1, sort_keys=True, ensure_ascii=False))
            return
        labels = "verified against the devkit" if manifest.source.get("verified") else "NOT verified"
        click.echo(f"{records}: schema {manifest.schema_version}, {len(manifest.classes)} classes, labels {labels}")
        for name, split in manifest.splits.items():
            mib = sum(shard.bytes + shard.index_bytes for shard in split.shards) / 2**20
            click.echo(
                f"  {name}: {split.rows} rows in {len(split.shards)} shards, {mib:.1f} MiB, "
                f"{split.quarantined} in quarantine"
            )
        for key, value in {"seed": manifest.seed, **manifest.source, **manifest.versions}.items():
            click.echo(f"  {key}: {value}")


@main.command()
@click.argument("records", type=click.Path(path_type=Path))
def verify(records: Path) -> None:
    """Read all of RECORDS again: SHA-256, counts, labels, and every image."""
    with expected_errors():
        from convnext_imagenet.records.artefact import read_finished
        from convnext_imagenet.records.manifest import Manifest
        from convnext_imagenet.records.verify import refuse_problems, verify_records

        manifest = Manifest.from_json(read_finished(records, "records"))
        total = sum(split.rows for split in manifest.splits.values())
        with progress(total, "verify") as advance:
            result = verify_records(records, on_progress=advance)
        refuse_problems(records, result)
        click.echo(f"{records}: {result.rows} rows verified: files, receipts, counts, labels and images are whole")


@main.command()
@click.argument("records", type=click.Path(path_type=Path))
@click.option("--split", default="train", show_default=True, help="The split to look into.")
@click.option("--row", default=0, show_default=True, type=click.IntRange(min=0), help="The first row to print.")
@click.option("--count", default=5, show_default=True, type=click.IntRange(min=1), help="How many rows.")
@click.option("--image", type=click.Path(path_type=Path), help="Write the first row's image bytes to this file.")
def peek(records: Path, split: str, row: int, count: int, image: Path | None) -> None:
    """Print a few rows of RECORDS, and save an image."""
    with expected_errors():
        from convnext_imagenet.records.errors import RecordsError
        from convnext_imagenet.records.files import write_atomically
        from convnext_imagenet.records.reading import Records
        from convnext_imagenet.records.schema import MINDRECORD_SCHEMA

        opened = Records.open(records)
        part = opened.split(split)
        if row >= part.rows:
            raise RecordsError(f"--row {row}: split {split!r} has rows 0..{part.rows - 1}")
        order = range(row, min(row + count, part.rows))
        for index, fields in zip(order, part.read(order, list(MINDRECORD_SCHEMA)), strict=True):
            entry = opened.classes[fields["label"]]
            click.echo(
                f"{index}  {fields['key']}  label {entry.index} {entry.wnid} ({entry.name})  "
                f"{fields['width']} x {fields['height']} px  {len(fields['image'])} bytes  id {fields['sample_id']}"
            )
            if image and index == row:
                write_atomically(image, fields["image"])
