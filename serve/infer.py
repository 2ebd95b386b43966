"""A few image files by name: what the network sees in each, as text and as labelled pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.input_files import read_file, source_text
from convnext_imagenet.serve.inputs import Item
from convnext_imagenet.serve.overlap import batches, map_ahead
from convnext_imagenet.serve.picture import PICTURE_FORMATS, labelled_picture, save_picture
from convnext_imagenet.serve.predictions import Guess
from convnext_imagenet.serve.scoring import score_samples
from convnext_imagenet.serve.sources import Sample, read_sample

_LARGEST_BATCH = 16


@dataclass(frozen=True)
class Answer:
    """What the network says of one file, best first; no guesses and an `error` when it cannot be read."""

    path: Path
    guesses: tuple[Guess, ...]
    error: str | None = None


def classify_files(
    checkpoint: Checkpoint,
    files: Sequence[Path],
    topk: int,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """An answer for every file, in their order. Raises ServeError when the network's answers are not numbers."""
    size, classes = min(_LARGEST_BATCH, len(files)), checkpoint.card.classes
    read = partial(_read, checkpoint=checkpoint)
    classifier, answers = checkpoint.classifier(), []
    for batch in batches(map_ahead(read, list(enumerate(files)), workers, 2 * size), size):
        for sample, scored in zip(batch, score_samples(classifier, batch, classes, topk, size), strict=True):
            error = f"{sample.status}: {sample.error}" if sample.error else None
            guesses = () if scored is None else tuple(scored.guesses)
            answers.append(Answer(files[sample.sample_id], guesses, error))
        if on_progress:
            on_progress(len(batch))
    return answers


def plan_pictures(files: Sequence[Path], out: Path) -> list[Path]:
    """Where the labelled picture of each file goes: to `out` itself, or into the directory `out`.

    `out` is a picture when it ends in .jpg, .jpeg or .png, and a directory otherwise. Raises ServeError for one
    picture of several files, an unknown ending, and a place where an input lies.
    """
    if out.is_dir() or not out.suffix:
        if out.is_file():
            raise ServeError(f"{out}: a file is in the way; name a directory, or a picture that ends in .jpg or .png")
        pictures = _names_in(out, files)
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


def write_picture(answer: Answer, path: Path) -> None:
    """Write the answer's image with its best class and probability under it."""
    best = answer.guesses[0]
    picture = labelled_picture(decode_rgb(answer.path.read_bytes()), first_name(best["name"]), best["score"])
    save_picture(picture, path)


def answer_lines(answer: Answer) -> list[str]:
    """The best class as `{394: 'sturgeon'}`, then the file and a table: probability, index, wnid and all names."""
    best = answer.guesses[0]
    lines = [str({best["class_index"]: first_name(best["name"])}), f"  {source_text(answer.path)}"]
    for guess in answer.guesses:
        lines.append(f"  {guess['score']:8.4%}  {guess['class_index']:4d}  {guess['wnid']}  {guess['name']}")
    return lines


def first_name(name: str) -> str:
    """The first of a class's synonyms: "tench" of "tench, Tinca tinca"."""
    return name.split(",")[0].strip()


def _read(numbered: tuple[int, Path], checkpoint: Checkpoint) -> Sample:
    index, path = numbered
    return read_sample(Item(source_text(path), partial(read_file, path)), index, checkpoint.card.transform)


def _names_in(folder: Path, files: Sequence[Path]) -> list[Path]:
    names: list[str] = []
    for file in files:
        candidates = (f"{file.stem}{suffix}.jpg" for suffix in ("", *(f"-{n}" for n in range(2, len(files) + 1))))
        names.append(next(name for name in candidates if name not in names))
    return [folder / name for name in names]
