"""A compiled graph is taken again only if it is exactly the one that this run left there."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convnext_imagenet.base.host import sources_digest
from convnext_imagenet.train.config.schedule import BatchParts
from convnext_imagenet.train.run.compile_cache import CompileCache, graph_identity

ENABLE, PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
KERNELS = Path("/cache/1234/kernels.so")
PARTS = BatchParts(2, 4, 32)
IDENTITY = {
    "plan": "plan",
    "ranks": 1,
    "micro_batches": 4,
    "rows": 32,
    "target": "CPU",
    "kernels": str(KERNELS),
    "python": "3.11.9",
    "sources": "0123",
}
FILES = {"rank_0/graph_cache/compile_cache_0.mindir": b"graph", "rank_0/graph_cache/compile_dep.json": b"{}"}


@pytest.fixture(autouse=True)
def _no_setting_of_the_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in (ENABLE, PATH):
            patch.delenv(name, raising=False)
        yield
        for name in (ENABLE, PATH):
            assert not os.environ.pop(name, "")


def _compile(run: Path, rank: int = 0, **changes: Any) -> CompileCache:
    """Compile as MindSpore does: what it finds it takes, otherwise it writes."""
    cache = CompileCache(run, rank, {**IDENTITY, **changes})
    assert not cache.is_compiled
    with cache.compiling():
        assert os.environ[ENABLE] == "1"
        folder = Path(os.environ[PATH])
        assert folder.is_dir()
        if not cache.was_hit:
            assert list(folder.iterdir()) == []
            for name, data in FILES.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
    assert cache.is_compiled
    return cache


def _folders(run: Path) -> set[str]:
    return {path.name for path in (run / "compile").iterdir()}


def _files(run: Path) -> list[Path]:
    """The cached files, and the seal last."""
    paths = sorted(path for path in (run / "compile").rglob("*") if path.is_file())
    return sorted(paths, key=lambda path: path.name == "sealed.json")


def test_a_graph_is_found_again_as_often_as_it_is_needed(tmp_path: Path) -> None:
    assert not _compile(tmp_path).was_hit
    before = {path: path.read_bytes() for path in _files(tmp_path)}
    assert len(before) == len(FILES) + 1
    for _ in range(2):
        assert _compile(tmp_path).was_hit
    assert {path: path.read_bytes() for path in _files(tmp_path)} == before


def _flip(graph: Path, seal: Path) -> None:
    data = bytearray(graph.read_bytes())
    data[2] ^= 1
    graph.write_bytes(data)


def _miss(graph: Path, seal: Path) -> None:
    graph.unlink()


def _add(graph: Path, seal: Path) -> None:
    (graph.parent / "compile_cache_1.mindir").write_bytes(b"")


def _rename(graph: Path, seal: Path) -> None:
    graph.rename(graph.with_name("compile_cache_1.mindir"))


def _cut_seal(graph: Path, seal: Path) -> None:
    seal.write_bytes(seal.read_bytes()[:-5])


def _lose_seal(graph: Path, seal: Path) -> None:
    seal.unlink()


def _empty(graph: Path, seal: Path) -> None:
    """Sealed, but holding nothing that could be taken."""
    for path in _files(seal.parents[2])[:-1]:
        path.unlink()
    seal.write_text("{}")


@pytest.mark.parametrize("damage", [_flip, _miss, _add, _rename, _cut_seal, _lose_seal, _empty])
def test_a_cache_that_is_not_as_it_was_sealed_is_emptied_and_compiled_anew(tmp_path: Path, damage) -> None:
    _compile(tmp_path)
    before = {path: path.read_bytes() for path in _files(tmp_path)}
    damage(_files(tmp_path)[0], _files(tmp_path)[-1])
    assert not _compile(tmp_path).was_hit
    assert {path: path.read_bytes() for path in _files(tmp_path)} == before
    assert _compile(tmp_path).was_hit


@pytest.mark.parametrize("key", IDENTITY)
def test_another_graph_replaces_this_ranks_earlier_one(tmp_path: Path, key: str) -> None:
    for rank in (0, 1, 10):  # the name of rank 10 begins with that of rank 1
        _compile(tmp_path, rank)
    before = _folders(tmp_path)
    (own,) = (name for name in before if name.startswith("rank-0-"))
    assert not _compile(tmp_path, **{key: "other"}).was_hit
    after = _folders(tmp_path)
    assert before - after == {own}
    assert {name.rsplit("-", 1)[0] for name in after} == {"rank-0", "rank-1", "rank-10"}
    assert _compile(tmp_path, rank=1).was_hit
    assert _compile(tmp_path, rank=10).was_hit


def test_a_graph_is_known_by_plan_division_target_kernels_and_code() -> None:
    own = {"plan_id": "plan", "parts": PARTS, "target": "CPU", "kernels": KERNELS}
    identity = graph_identity(**own)
    assert identity == graph_identity(**own)
    assert identity.keys() == IDENTITY.keys()
    assert identity["python"] == platform.python_version()
    assert identity["sources"] == sources_digest(("base", "launch", "model", "train"))
    others = [{"plan_id": "other"}, {"target": "Ascend"}, {"kernels": None}]
    others += [{"parts": parts} for parts in (BatchParts(1, 4, 32), BatchParts(2, 8, 32), BatchParts(2, 4, 16))]
    for other in others:
        assert graph_identity(**own | other) != identity, other


def test_a_compilation_that_failed_is_not_taken(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path, 0, IDENTITY)

    def compile_half() -> None:
        with cache.compiling():
            (Path(os.environ[PATH]) / "half.mindir").write_bytes(b"half")
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        compile_half()
    assert not cache.is_compiled
    assert [path.name for path in _files(tmp_path)] == ["half.mindir"]
    assert not _compile(tmp_path).was_hit
    assert len(_files(tmp_path)) == len(FILES) + 1


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_users_own_setting_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(ENABLE, value)
        patch.setenv(PATH, "/of/the/user")
        cache = CompileCache(tmp_path, 0, IDENTITY)
        with cache.compiling():
            assert (os.environ[ENABLE], os.environ[PATH]) == (value, "/of/the/user")
        assert (os.environ[ENABLE], os.environ[PATH]) == (value, "/of/the/user")
    assert (cache.is_compiled, cache.was_hit) == (True, False)
    assert list(tmp_path.iterdir()) == []


def test_without_a_script_that_mindspore_can_read_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["-c"])
    cache = CompileCache(tmp_path, 0, IDENTITY)
    with cache.compiling():
        assert not os.environ[ENABLE]
    assert (cache.is_compiled, cache.was_hit) == (True, False)
    assert not list(tmp_path.iterdir())


def test_compiling_adds_and_removes_no_variable_because_other_threads_read_them(tmp_path: Path) -> None:
    """Adding one moves the environment; a thread of MindSpore that read it at that moment ended the process."""
    cache = CompileCache(tmp_path, 0, IDENTITY)
    names = set(os.environ)
    with cache.compiling():
        assert set(os.environ) == names
    assert set(os.environ) == names


def test_the_users_folder_is_named_again_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(PATH, "/of/the/user")  # MindSpore puts more there than this cache
        _compile(tmp_path)
        assert os.environ[PATH] == "/of/the/user"


def test_a_folder_that_cannot_be_made_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    cache = CompileCache(tmp_path / "run", 0, IDENTITY)
    with cache.compiling():
        assert not os.environ[ENABLE]
    assert (cache.is_compiled, cache.was_hit) == (True, False)


def test_an_earlier_graph_that_cannot_be_removed_leaves_the_cache_unused(tmp_path: Path) -> None:
    _compile(tmp_path)
    (tmp_path / "compile" / "rank-0-earlier").write_text("a file, which is no folder to remove")
    cache = CompileCache(tmp_path, 0, IDENTITY)
    with cache.compiling():
        assert not os.environ[ENABLE]
    assert (cache.is_compiled, cache.was_hit) == (True, False)


def test_a_seal_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path, 0, IDENTITY)
    with cache.compiling():
        (Path(os.environ[PATH]) / "sealed.json" / "in the way").mkdir(parents=True)
    assert cache.is_compiled
    assert not _compile(tmp_path).was_hit
    assert _compile(tmp_path).was_hit
