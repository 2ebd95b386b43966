"""The compiled training step kept in RUN, so that a resumed run starts sooner; MindSpore's cache, made safe.

MindSpore tells cached graphs apart by the order in which they were compiled and by nothing else: another network, other
constants, even a damaged file would be taken without a word. So the cache is open while the training step compiles and
for nothing else, its folder is named after all that makes that graph, and its files count only as they were sealed.
"""

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, sha256_file, sha256_json, write_json
from convnext_imagenet.base.host import sources_digest

_ENABLE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
_SEAL = "sealed.json"
_ROOMS = ("base", "launch", "model", "train")  # whose code becomes part of the graph


def graph_identity(plan_id: str, ranks: int, kernels: Path | None) -> dict[str, Any]:
    """Return all that makes the graph of a run's step: its plan, how many ranks, our CPU kernels, and the code."""
    return {
        "plan": plan_id,
        "ranks": ranks,
        "kernels": str(kernels),
        "python": platform.python_version(),
        "sources": sources_digest(_ROOMS),
    }


class CompileCache:
    """The cache of rank number `rank` for the graph of `identity` (`graph_identity`).

    `is_compiled` tells that the step is compiled, `was_hit` that it was read from here.
    """

    def __init__(self, run: Path, rank: int, identity: Mapping[str, Any]) -> None:
        self._all, self._rank = run / "compile", f"rank-{rank}"
        self._folder = self._all / f"{self._rank}-{sha256_json(identity)[:16]}"
        self.is_compiled = self.was_hit = False

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """While entered, let MindSpore read the graph that compiles, or write it; without a disk it only compiles."""
        has_script = Path(sys.argv[0]).is_file()  # which MindSpore reads for its cache, and fails without
        is_usable = not os.environ.get(_ENABLE) and has_script and self._prepare()  # the user's own setting stands
        before = os.environ.get(_PATH)
        if is_usable:
            os.environ |= {_ENABLE: "1", _PATH: str(self._folder)}
        try:
            yield
            self.is_compiled = True
        finally:
            if is_usable:
                del os.environ[_ENABLE], os.environ[_PATH]
                os.environ |= {} if before is None else {_PATH: before}
        if is_usable and not self.was_hit:
            with contextlib.suppress(OSError, ArtefactError):
                write_json(self._folder / _SEAL, self._digests())

    def _prepare(self) -> bool:
        """Find out whether the folder is as it was sealed, and empty it if not, with those of earlier graphs."""
        with contextlib.suppress(OSError, ArtefactError):
            self.was_hit = read_json(self._folder / _SEAL) == self._digests() != {}
        try:
            for other in self._all.glob(f"{self._rank}-*"):
                if other != self._folder or not self.was_hit:
                    shutil.rmtree(other)
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            self.was_hit = False
            return False
        return True

    def _digests(self) -> Mapping[str, Any]:
        paths = sorted(path for path in self._folder.rglob("*") if path.is_file() and path.name != _SEAL)
        return {str(path.relative_to(self._folder)): sha256_file(path) for path in paths}
