"""A few image files by name: what the network sees in each, as text, as JSON and as labelled pictures."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.serve.batching import batches
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.engine import open_engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import read_file, source_text
from convnext_imagenet.serve.inputs.inputs import Item
from convnext_imagenet.serve.picture import PICTURE_FORMATS, labelled_picture, save_picture
from convnext_imagenet.serve.prefetch import map_ahead
from convnext_imagenet.serve.samples import Sample, read_sample
from convnext_imagenet.serve.scoring import Guess, score_samples

_LARGEST_BATCH = 16


@dataclass(frozen=True)
class Classification:
    """The best classes of one file, best first; `status` and `error` are those of a row of PREDICTIONS."""

    path: Path
    guesses: tuple[Guess, ...]
    status: str = "ok"
    error: str | None = None


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Return the paths, a folder replaced by its visible files in the order of their names' bytes.

    Folders in a folder are left out. Raises ServeError for a folder without files.
    """
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = [entry for entry in path.iterdir() if not entry.name.startswith(".") and _is_file(entry)]
            if not files:
                raise ServeError(
                    f"{path}: holds no files (hidden ones and folders in it are left out); "
                    f"for a tree of images there is `convnext-serve predict`"
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
) -> list[Classification]:
    """Return the classes of every file, in their order; ServeError when the network gives what is not a number."""
    size, classes = min(_LARGEST_BATCH, len(files)), checkpoint.card.classes
    read = partial(_read, checkpoint=checkpoint)
    engine, results = open_engine("mindspore", checkpoint), []
    for batch in batches(map_ahead(read, list(enumerate(files)), workers, 2 * size), size):
        for sample, scored in zip(batch, score_samples(engine, batch, classes, topk, size), strict=True):
            guesses = () if scored is None else tuple(scored.guesses)
            results.append(Classification(files[sample.sample_id], guesses, sample.status, sample.error))
        if on_progress:
            on_progress(len(batch))
    return results


def plan_pictures(files: Sequence[Path], out: Path) -> list[Path]:
    """Return where the labelled picture of each file goes: to `out` itself, or into the directory `out`.

    `out` is a picture when it ends in .jpg, .jpeg or .png, and a directory otherwise. Raises ServeError for one
    picture of several files, an unknown ending, and a path that is an input.
    """
    if out.is_dir() or not out.suffix:
        if out.is_file():
            raise ServeError(f"{out}: a file is in the way; name a directory, or a picture that ends in .jpg or .png")
        pictures = _picture_paths(out, files)
    elif out.suffix.lower() not in PICTURE_FORMATS:
        raise ServeError(f"{out}: pictures are written as {', '.join(PICTURE_FORMATS)}; choose one of these endings")
    elif len(files) > 1:
        raise ServeError(f"{out}: one picture cannot show {len(files)} files; name a directory, or one FILE")
    else:
        pictures = [out]
    inputs = {file.resolve() for file in files}
    for picture in pictures:
        if picture.resolve() in inputs:
            raise ServeError(f"{picture}: is one of the inputs, which are never overwritten; choose another --out")
    return pictures


def write_picture(result: Classification, path: Path) -> None:
    """Write the result's image with its best class and probability under it."""
    best = result.guesses[0]
    picture = labelled_picture(decode_rgb(result.path.read_bytes()), first_name(best["name"]), best["score"])
    save_picture(picture, path)


def classification_lines(result: Classification) -> list[str]:
    """Return the best class as `{394: 'sturgeon'}`, then the file, then probability, index, wnid and names of all."""
    best = result.guesses[0]
    lines = [str({best["class_index"]: first_name(best["name"])}), f"  {source_text(result.path)}"]
    for guess in result.guesses:
        lines.append(f"  {guess['score']:8.4%}  {guess['class_index']:4d}  {guess['wnid']}  {guess['name']}")
    return lines


def classification_json(result: Classification) -> str:
    """Return the result as one line of JSON: file, status, error and topk, as in a row of PREDICTIONS."""
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
    """Whether a path is a regular file, or a link that leads nowhere, which gets an result that says so."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _picture_paths(folder: Path, files: Sequence[Path]) -> list[Path]:
    names: dict[str, None] = {}  # a set that keeps its order
    for file in files:
        candidates = (f"{file.stem}{suffix}.jpg" for suffix in ("", *(f"-{n}" for n in range(2, len(files) + 1))))
        names[next(name for name in candidates if name not in names)] = None
    return [folder / name for name in names]
