"""Writes a checkpoint as a file for other programs with a model card beside it, after checking the file's answers."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import make_readable, read_json, sha256_file, sync_file, sync_folder
from convnext_imagenet.model.exchange.model_card_md import ExportFacts, card_markdown
from convnext_imagenet.model.exchange.onnx_precision import STORED
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.weights.export_formats import FORMATS, ExportOptions


def export_weights(checkpoint: Checkpoint, out: Path, options: ExportOptions) -> bool:
    """Write `out` and its card, `out`.md; return False if the same export exists already.

    Equal cards mean equal exports (DECISIONS, 2026-11-26). Raises ServeError for an `out` that has a wrong ending or
    holds something else, and for lower precision that loses more than allowed; ModelError when a package is missing or
    the export's answers differ from the network's. After an error, no file has a final name.
    """
    _check_output_path(out, options)
    if options.reduction is not None and not checkpoint.has_classifier:
        raise ServeError(
            f"{checkpoint.path}: has no trained classifier, so no row can change its class, which measures the loss of "
            f"--precision {options.reduction.precision}; leave --precision out"
        )
    FORMATS[options.format].check()
    card = out.with_name(f"{out.name}.md")
    if out.exists():
        if card.is_file() and card.read_text("utf-8", "replace") == _card(
            checkpoint, options, exported_files(out, options.format)
        ):
            return False
        raise ServeError(f"{out}: exists and is another export; delete it, or choose another --out")
    for beside in (card, FORMATS[options.format].beside(out)):
        if beside is not None and beside.exists():
            raise ServeError(f"{beside}: exists, but {out.name} needs this name; delete it, or choose another --out")
    with _staging(out) as folder:
        files = FORMATS[options.format].write(checkpoint, folder / out.name, options)
        text = _card(checkpoint, options, files)
        (folder / card.name).write_text(text, "utf-8")
        _publish(folder, [folder / card.name, *files], out.parent)
    return True


def exported_files(out: Path, format_name: str) -> list[Path]:
    """Return the files of an export of a format of FORMATS, the model last; without its card."""
    beside = FORMATS[format_name].beside(out)
    if beside is None or not beside.exists():
        return [out]
    return [*(sorted(beside.iterdir()) if beside.is_dir() else [beside]), out]


def training_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return epoch, step and top-1 on val from the receipt beside a checkpoint of a RUN; empty without a receipt."""
    unit = checkpoint.path.name.split(".")[0]
    try:
        receipt = read_json(checkpoint.path.with_name(f"{unit}.json"))
        names = [file["name"] for file in receipt["files"] if file["sha256"] == checkpoint.sha256]
        facts = receipt["facts"]
        top1 = facts["ema_top1" if names[0].endswith(".ema.safetensors") else "top1"]
        return {"epoch": facts["epoch"], "step": facts["step"], "top-1 on val": top1}
    except (ArtefactError, OSError, KeyError, IndexError, TypeError):
        return {}


def _card(checkpoint: Checkpoint, options: ExportOptions, files: Sequence[Path]) -> str:
    """Return the card of an export with these files, the model last."""
    made = FORMATS[options.format]
    facts = ExportFacts(
        title=made.title,
        files=[
            (path.relative_to(files[-1].parent).as_posix(), path.stat().st_size, sha256_file(path)) for path in files
        ],
        checkpoint=(checkpoint.path.name, checkpoint.sha256),
        classes_sha256=checkpoint.classes_sha256,
        interface=made.interface(checkpoint, options, files[-1]),
        example=made.example(checkpoint, options, files[-1].name),
        training=training_facts(checkpoint),
        stored="float32" if options.reduction is None else STORED[options.reduction.precision],
    )
    return card_markdown(checkpoint.card, facts)


def _check_output_path(out: Path, options: ExportOptions) -> None:
    suffix = f".{options.format}"
    if out.suffix != suffix or out.stem.startswith("."):
        raise ServeError(
            f"{out}: a file of --format {options.format} must end in {suffix} and not be hidden; choose another --out"
        )
    if out.is_dir():
        raise ServeError(f"{out}: exists and is a folder; choose another --out")
    if not out.parent.is_dir():
        raise ServeError(f"{out.parent}: no such folder; create it, or choose another --out")


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `out` for files with their final names; remove it at the end, even after errors."""
    folder = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    except OSError as error:
        if error.errno is None:
            raise
        # the error of a library may lack the file's name
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(out)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(staging: Path, files: Sequence[Path], folder: Path) -> None:
    """Move the files to `folder`, the model last: whoever sees the model finds the other files, too.

    A folder in `staging` is moved as a whole.
    """
    for path in files:
        make_readable(path)
        sync_file(path)
    inner = dict.fromkeys(path.parent for path in files if path.parent != staging)
    for within in inner:
        make_readable(within)
        sync_folder(within)
    for path in (*inner, *(path for path in files if path.parent == staging)):
        path.replace(folder / path.name)
    sync_folder(folder)
