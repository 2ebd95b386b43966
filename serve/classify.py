"""Classifies a few image files: the best classes of each as text, JSON or a labelled picture.

Jobs of many inputs, which resume, are in predict/.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from convnext_imagenet.serve.batching import batches
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.engine import open_engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import read_file, source_text
from convnext_imagenet.serve.inputs.inputs import Item
from convnext_imagenet.serve.picture import PICTURE_FORMATS, labelled_picture, save_picture
from convnext_imagenet.serve.prefetch import map_ahead
from convnext_imagenet.serve.samples import Sample, decode_image, read_sample
from convnext_imagenet.serve.scoring import Guess, score_samples
from convnext_imagenet.serve.settings import Precision

_LARGEST_BATCH = 16  # the command is interactive: progress moves often, and a small batch needs little memory


@dataclass(frozen=True)
class Classification:
    """The best classes of one file, best first; `status` and `error` mean the same as in a row of PREDICTIONS."""

    path: Path
    guesses: tuple[Guess, ...]
    status: str = "ok"
    error: str | None = None


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Return the paths; a folder is replaced by its visible files, sorted by the bytes of their names.

    Subfolders are skipped. Raises ServeError for a folder without files.
    """
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = [entry for entry in path.iterdir() if not entry.name.startswith(".") and _is_file(entry)]
            if not files:
                raise ServeError(
                    f"{path}: holds no files (hidden files and subfolders are skipped); "
                    f"use `convnext-serve predict` for a tree of images"
                )
            images += sorted(files, key=os.fsencode)
        else:
            images.append(path)
    return images


def classify_files(
    checkpoint: Checkpoint,
    files: Sequence[Path],
    topk: int,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
    precision: Precision = "float32",
) -> list[Classification]:
    """Return the classes of every file, in the order of `files`.

    Raises ServeError when the network gives NaN or infinity, or has no classifier; ModelError when bfloat16 is asked
    for and is not there.
    """
    checkpoint.require_classifier()
    size, classes = min(_LARGEST_BATCH, len(files)), checkpoint.card.classes
    read = partial(_read, checkpoint=checkpoint)
    engine, results = open_engine("mindspore", checkpoint, precision=precision), []
    for batch in batches(map_ahead(read, list(enumerate(files)), workers, 2 * size), size):
        for sample, scored in zip(batch, score_samples(engine, batch, classes, topk, size), strict=True):
            guesses = () if scored is None else tuple(scored.guesses or ())
            results.append(Classification(files[sample.sample_id], guesses, sample.status, sample.error))
        if on_progress:
            on_progress(len(batch))
    return results


def plan_pictures(files: Sequence[Path], out: Path) -> list[Path]:
    """Return the path of each file's labelled picture: `out` itself, or a file in the directory `out`.

    `out` is a picture if it ends in .jpg, .jpeg or .png, a directory if it has no ending. Raises ServeError for one
    picture of several files, an unknown ending, and a path that is an input.
    """
    if out.is_dir() or not out.suffix:
        if out.is_file():
            raise ServeError(f"{out}: exists and is a file; choose a directory, or a picture that ends in .jpg or .png")
        pictures = _picture_paths(out, files)
    elif out.suffix.lower() not in PICTURE_FORMATS:
        raise ServeError(f"{out}: pictures are written as {', '.join(PICTURE_FORMATS)}; choose one of these endings")
    elif len(files) > 1:
        raise ServeError(f"{out}: one picture cannot show {len(files)} files; choose a directory, or give one FILE")
    else:
        pictures = [out]
    inputs = {file.resolve() for file in files}
    for picture in pictures:
        if picture.resolve() in inputs:
            raise ServeError(f"{picture}: is an input, and inputs are never overwritten; choose another --out")
    return pictures


def write_picture(result: Classification, path: Path) -> None:
    """Write the image of a result with its best class and probability below it."""
    best = result.guesses[0]
    pixels = decode_image(result.path.read_bytes()).pixels
    picture = labelled_picture(pixels, first_name(best["name"]), best["score"])
    save_picture(picture, path)


def classification_lines(result: Classification) -> list[str]:
    """Return the best class as the MindSpore example prints it, `{394: 'sturgeon'}`, then the file and all classes."""
    best = result.guesses[0]
    lines = [str({best["class_index"]: first_name(best["name"])}), f"  {source_text(result.path)}"]
    for guess in result.guesses:
        lines.append(f"  {guess['score']:8.4%}  {guess['class_index']:4d}  {guess['wnid']}  {guess['name']}")
    return lines


def classification_json(result: Classification) -> str:
    """Return the result as one line of JSON: file, and status, error and topk as in a row of PREDICTIONS."""
    value = {
        "file": source_text(result.path),
        "status": result.status,
        "error": result.error,
        "topk": list(result.guesses),
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def first_name(name: str) -> str:
    """Return the first of a class's synonyms: "tench" of "tench, Tinca tinca"."""
    return name.split(",")[0].strip()


def _read(numbered: tuple[int, Path], checkpoint: Checkpoint) -> Sample:
    index, path = numbered
    return read_sample(Item(source_text(path), partial(read_file, path)), index, checkpoint.card.transform)


def _is_file(path: Path) -> bool:
    """Return whether a path is a regular file, or a broken link, whose result then holds the error."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _picture_paths(folder: Path, files: Sequence[Path]) -> list[Path]:
    names: dict[str, None] = {}  # a set that keeps its order
    for file in files:
        candidates = (f"{file.stem}{suffix}.jpg" for suffix in ("", *(f"-{n}" for n in range(2, len(files) + 1))))
        names[next(name for name in candidates if name not in names)] = None
    return [folder / name for name in names]
