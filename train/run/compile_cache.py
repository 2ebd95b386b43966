"""Keeps the compiled training step in RUN, so that a resumed run starts sooner; makes MindSpore's cache safe to use.

MindSpore identifies cached graphs only by the order in which they were compiled. It would silently load a graph of
another network, with other constants, or from a damaged file. So the cache is open only while the training step
compiles, its folder is named after everything that determines the graph, and its files are used only if they still have
their recorded SHA-256 (DECISIONS, 2026-11-25).
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
from convnext_imagenet.train.config.schedule import BatchParts

_ENABLE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
_SEAL = "sealed.json"
_ROOMS = ("base", "launch", "model", "train")  # packages whose code can change the graph


def graph_identity(plan_id: str, parts: BatchParts, target: str, kernels: Path | None) -> dict[str, Any]:
    """Return what determines a run's compiled step: plan, division, device target, CPU kernels, Python, code.

    A run may be resumed on another kind of device, which has other kernels for the same graph.
    """
    return {
        "plan": plan_id,
        "ranks": parts.devices,
        "micro_batches": parts.micro_batches,
        "rows": parts.rows,
        "target": target,
        "kernels": str(kernels),
        "python": platform.python_version(),
        "sources": sources_digest(_ROOMS),
    }


class CompileCache:
    """The cache of rank number `rank` for the graph of `identity` (`graph_identity`).

    `is_compiled`: the step is compiled; `was_hit`: it was loaded from this cache.
    """

    def __init__(self, run: Path, rank: int, identity: Mapping[str, Any]) -> None:
        self._all, self._rank = run / "compile", f"rank-{rank}"
        self._folder = self._all / f"{self._rank}-{sha256_json(identity)[:16]}"
        self.is_compiled = self.was_hit = False
        # Both exist from here on, empty, before the threads that read data start: setting a variable that exists moves
        # no memory, but adding one does, and then a thread of MindSpore that reads any variable may crash.
        for name in (_ENABLE, _PATH):
            os.environ.setdefault(name, "")

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """While entered, let MindSpore load or store the graph that it compiles. If the folder fails, only compile."""
        has_script = Path(sys.argv[0]).is_file()  # MindSpore's cache reads this file, and fails without it
        is_usable = not os.environ.get(_ENABLE) and has_script and self._prepare()  # the user's own setting wins
        before = os.environ[_PATH]
        if is_usable:
            os.environ |= {_ENABLE: "1", _PATH: str(self._folder)}
        try:
            yield
            self.is_compiled = True
        finally:
            if is_usable:
                os.environ |= {_ENABLE: "", _PATH: before}
        if is_usable and not self.was_hit:
            with contextlib.suppress(OSError, ArtefactError):
                write_json(self._folder / _SEAL, self._digests())

    def _prepare(self) -> bool:
        """Set `was_hit` if the folder is as it was sealed; else empty it. Remove the folders of earlier graphs."""
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
