"""`convnext-records`: show, verify, print and draw what a RECORDS directory contains."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.cli_output import json_option, progress_option, result_on_stdout
from convnext_imagenet.base.console import LocalPath, Program, expected_errors, progress
from convnext_imagenet.records.cli_audit import audit, decisions
from convnext_imagenet.records.cli_copies import diff, export, pull, push

if TYPE_CHECKING:
    from convnext_imagenet.records.manifest import Manifest

_MOST_PROBLEMS = 20  # lines on the screen


@click.group(cls=Program)
@click.version_option(package_name="convnext_imagenet")
def main() -> None:
    """Show what a RECORDS directory holds, and verify it."""


main.add_command(audit)
main.add_command(decisions)
main.add_command(export)
main.add_command(diff)
main.add_command(push)
main.add_command(pull)


@main.command()
@click.argument("records", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@click.option("--classes", is_flag=True, help="Also print the number of images of each class.")
def show(records: Path, as_json: bool, classes: bool) -> None:
    """Print splits, classes, source and versions of RECORDS, which are a directory or a URI."""
    with expected_errors():
        from convnext_imagenet.base.wording import plural
        from convnext_imagenet.records.places import place_of

        place = place_of(records)
        manifest = place.manifest()
        if as_json:
            click.echo(json.dumps(manifest.to_json(), indent=1, sort_keys=True, ensure_ascii=False))
            return
        against = manifest.verified_against
        labels = f"verified against {against}" if against else "NOT verified"
        number = plural(len(manifest.classes), "class")
        click.echo(f"{place}: schema {manifest.schema_version}, {number}, labels {labels}")
        for name, split in manifest.splits.items():
            mib = sum(shard.bytes + shard.index_bytes for shard in split.shards) / 2**20
            click.echo(
                f"  {name}: {plural(split.rows, 'row')} in {plural(len(split.shards), 'shard')}, {mib:,.1f} MiB, "
                f"{split.quarantined:,} in quarantine"
            )
        if classes:
            for line in _class_lines(manifest):
                click.echo(line)
        for key, value in _flat({"seed": manifest.seed, **manifest.source, **manifest.versions}):
            click.echo(f"  {key}: {value}")


def _class_lines(manifest: "Manifest") -> Iterator[str]:
    """Yield a heading and a line for each class: index, wnid, images by split, name."""
    width = max(len(entry.wnid) for entry in manifest.classes)
    heads = "".join(f"{name:>9}" for name in manifest.splits)
    yield f"  {'index':>5}  {'wnid':<{width}}{heads}  name"
    for entry in manifest.classes:
        counts = "".join(f"{split.rows_per_class[entry.index]:>9,}" for split in manifest.splits.values())
        yield f"  {entry.index:>5}  {entry.wnid:<{width}}{counts}  {entry.name}"


def _flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and value of each fact; a mapping gives a line for each of its keys, so that no line is long."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            yield name, "none" if value is None else str(value)


@main.command()
@click.argument("records", type=click.Path(path_type=Path))
@json_option()
@progress_option
def verify(records: Path, as_json: bool) -> None:
    """Read RECORDS again and check every byte, count, label and image.

    At a URI, and of an export, every file is compared with its SHA-256, and no image is decoded.
    """
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.records.export.verify import is_export
        from convnext_imagenet.records.places import StorePlace, place_of

        if is_export(records):
            _verify_export(records, report)
            return
        if isinstance(place := place_of(records), StorePlace):
            from convnext_imagenet.records.pull import verify_stored

            with progress(None, "verify", unit="B") as advance:
                read = verify_stored(place, advance)
            click.echo(f"{place}: every file compared with its SHA-256; {read / 2**20:,.1f} MiB read")
            report({"records": str(place), "rows": None, "bytes": read, "problems": []})
            return
        from convnext_imagenet.base.protocol import read_finished
        from convnext_imagenet.records.manifest import Manifest
        from convnext_imagenet.records.verify import refuse_problems, verify_records

        manifest = Manifest.from_json(read_finished(records, "records"))
        total = sum(split.rows for split in manifest.splits.values())
        with progress(total, "verify") as advance:
            result = verify_records(records, on_progress=advance)
        report({"records": records, "rows": result.rows, "bytes": None, "problems": result.problems})
        for problem in result.problems[:_MOST_PROBLEMS]:
            click.echo(f"  {problem}")
        refuse_problems(records, result)
        click.echo(f"{records}: files, receipts, counts, labels and images verified; {result.rows:,} rows read")


def _verify_export(root: Path, report: Callable[[Mapping[str, Any]], None]) -> None:
    from convnext_imagenet.records.export.verify import refuse_export_problems, verify_export

    with progress(None, "verify", unit="B") as advance:
        result = verify_export(root, advance)
    report({"records": root, "rows": result.rows, "bytes": result.bytes, "problems": result.problems})
    for problem in result.problems[:_MOST_PROBLEMS]:
        click.echo(f"  {problem}")
    refuse_export_problems(root, result)
    click.echo(f"{root}: every file compared with its SHA-256; {result.rows:,} rows, {result.bytes / 2**20:,.1f} MiB")


@main.command()
@click.argument("records", type=LocalPath())
def repair(records: Path) -> None:
    """Repair what of RECORDS needs no source: index, report, quarantine, and the mark that it is finished.

    Before the mark, everything is read and checked as by verify. A damaged shard needs the source: it is named, and
    `convnext-ingest build --repair` writes it again.
    """
    with expected_errors():
        from convnext_imagenet.records.repair import repair_without_source

        with progress(None, "verify") as advance:
            done = repair_without_source(records, advance)
        if not done.rows_read:
            click.echo(f"{records}: nothing to repair")
            return
        for name in done.rewritten:
            click.echo(f"  {name}: written again")
        click.echo(f"{records}: finished; {done.rows_read:,} rows read and verified")
        if done.has_new_manifest:
            click.echo("  manifest.json is another one than before: a RUN that began on it must begin again")


@main.command()
@click.argument("records", type=click.Path(path_type=Path))
@click.option("--split", default="train", show_default=True, help="Split to read from.")
@click.option("--row", type=click.IntRange(min=0), help="First row to print.  [default: 0]")
@click.option("--key", help="Print the row with this key, such as n01440764_10026, from any split.")
@click.option("--count", default=1, show_default=True, type=click.IntRange(min=1), help="Number of rows to print.")
@click.option("--image", type=LocalPath(), help="Save the image of the first row to this file.")
def peek(records: Path, split: str, row: int | None, key: str | None, count: int, image: Path | None) -> None:
    """Print rows of RECORDS, which are a directory or a URI, and save an image."""
    if row is not None and key is not None:
        raise click.UsageError("--row and --key both choose a row; pass one of them")
    with expected_errors():
        from convnext_imagenet.base.files import write_output
        from convnext_imagenet.records.row_lookup import describe_row, require_ending
        from convnext_imagenet.records.row_source import find_row, open_records

        if key is None:
            source, first = open_records(records, split), row or 0
            source.require_row(first)
        else:
            source, first = find_row(records, key)
        for number in range(first, min(first + count, len(source))):
            stored = source.fields(number)
            click.echo(describe_row(stored, f"{source.split} {number}", source.classes))
            if image and number == first:
                require_ending(image, stored.image)
                write_output(image, stored.image)
                click.echo(f"{image}: the bytes of row {number}, as they are stored")


@main.command()
@click.argument("records", type=LocalPath())
@click.option("--out", required=True, type=LocalPath(), help="PNG file to write, or page: sheet.html.")
@click.option("--split", default="train", show_default=True, help="Split to read from.")
@click.option("--class", "wnids", multiple=True, metavar="WNID", help="Draw only this class; may be repeated.")
@click.option("--per-class", default=4, show_default=True, type=click.IntRange(min=1), help="Images per class.")
@click.option(
    "--side", default=96, show_default=True, type=click.IntRange(16, 1024), help="Side of each image in pixels."
)
def gallery(records: Path, out: Path, split: str, wnids: tuple[str, ...], per_class: int, side: int) -> None:
    """Write a contact sheet: a few images of each class as one PNG or HTML page.

    A PNG has names in the fonts of this machine; a page shows every script.
    """
    with expected_errors():
        from convnext_imagenet.base.files import write_output
        from convnext_imagenet.base.wording import plural
        from convnext_imagenet.records.gallery import contact_page, contact_sheet, read_strips
        from convnext_imagenet.records.row_source import open_records

        strips = read_strips(open_records(records, split), wnids, per_class, side)
        is_page = out.suffix.lower() in (".html", ".htm")
        write_output(out, contact_page(strips, f"Images of {split}") if is_page else contact_sheet(strips, side))
        images = sum(len(strip.pictures) for strip in strips)
        click.echo(f"{out}: {plural(images, 'image')} of {plural(len(strips), 'class')} of {split}")
