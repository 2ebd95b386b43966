"""What the names of a folder's files say about it: images, or containers of images, and which files are chosen.

Pure: reads no file. A name is the path below the folder, as bytes.
"""

import fnmatch
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from convnext_imagenet.serve.errors import ServeError

# Files that stand beside tables and tars and hold no images: notes, and the statistics of img2dataset and Hugging Face.
_NOTES, _NOTE_ENDINGS = (b"readme", b"license"), (b".md", b".json", b".crc")
# Endings of images, for advice only: whatever its ending, a file is an input.
_IMAGE_ENDINGS = {
    b".jpg",
    b".jpeg",
    b".png",
    b".webp",
    b".gif",
    b".bmp",
    b".tif",
    b".tiff",
    b".avif",
    b".jp2",
    b".heic",
}
# Members of a WebDataset that belong to an image: its caption, its data, its class.
SIDECAR_ENDINGS = (".txt", ".json", ".cls")


@dataclass(frozen=True)
class Patterns:
    """Globs of --include and --exclude: one with a slash matches a whole path, another one its last part."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def __str__(self) -> str:
        words = [f"--include {pattern!r}" for pattern in self.include]
        return " ".join([*words, *(f"--exclude {pattern!r}" for pattern in self.exclude)])

    def chooses(self, name: bytes) -> bool:
        """Return whether a file of this name is wanted."""
        path = os.fsdecode(name)
        is_included = not self.include or any(_matches(path, pattern) for pattern in self.include)
        return is_included and not any(_matches(path, pattern) for pattern in self.exclude)

    def split(self, names: Iterable[bytes]) -> tuple["Patterns", "Patterns"]:
        """Return the patterns for the files of a folder with these names, and those for what lies in the files.

        A pattern of --include that matches a file chooses files, each other one the members of tars. --exclude holds
        for both.
        """
        remaining = set(self.include)
        for name in names if remaining else ():
            remaining -= {pattern for pattern in remaining if _matches(os.fsdecode(name), pattern)}
            if not remaining:
                break
        outer = tuple(pattern for pattern in self.include if pattern not in remaining)
        inner = tuple(pattern for pattern in self.include if pattern in remaining)
        return Patterns(outer, self.exclude), Patterns(inner, self.exclude)


ALL_FILES = Patterns()


def container_kind(
    names: Iterable[bytes], endings: Mapping[str, str], folder: str, patterns: Patterns
) -> tuple[str, list[bytes]]:
    """Return the kind of container that a folder's files are, and their names; ("", []) for a folder of images.

    `endings` maps the ending of a container to its kind. Names that begin with an underscore, as those of Spark, and
    notes stand beside containers. Tables beside tars of the same names are those of img2dataset. Raises ServeError for
    any other mixture, with the patterns that choose a part of it.
    """
    known = {ending.encode(): kind for ending, kind in endings.items()}
    found: dict[str, list[bytes]] = {}
    others: Counter[bytes] = Counter()
    for name in names:
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  # pathlib takes no bytes
        if name.startswith(b"_") or b"/_" in name:
            continue
        if ending in known:
            found.setdefault(known[ending], []).append(name)
        elif not _is_note(name, ending):
            others[ending] += 1
    if not found:
        return "", []
    if not others and _is_of_img2dataset(found):
        found = {"tar": found["tar"]}
    if others or len(found) > 1:
        raise _mixture(folder, found, others, patterns)
    ((kind, members),) = found.items()
    return kind, sorted(members)


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern)


def _is_note(name: bytes, ending: bytes) -> bool:
    return ending in _NOTE_ENDINGS or name.rpartition(b"/")[2].lower().startswith(_NOTES)


def _is_of_img2dataset(found: Mapping[str, Sequence[bytes]]) -> bool:
    stems = {kind: {os.path.splitext(name)[0] for name in names} for kind, names in found.items()}  # noqa: PTH122
    return stems.keys() == {"tar", "table"} and stems["table"] <= stems["tar"]


def _mixture(
    folder: str, found: Mapping[str, Sequence[bytes]], others: Counter[bytes], patterns: Patterns
) -> ServeError:
    counts = {
        ending: count
        for names in found.values()
        for ending, count in Counter(os.path.splitext(name)[1] for name in names).items()  # noqa: PTH122
    }
    counts |= dict(others.most_common(3))
    holds = ", ".join(f"{count:,} {os.fsdecode(ending) or 'without ending'}" for ending, count in counts.items())
    useful = [ending for ending in counts if ending and (ending not in others or ending in _IMAGE_ENDINGS)]
    globs = [f"--include '*{os.fsdecode(ending)}'" for ending in useful]
    also = f" in addition to {patterns}" if patterns else ""
    return ServeError(f"{folder}: a mixture of files ({holds}); choose which to score by {' or '.join(globs)}{also}")
