"""Building the kernels: once, whole, by one process at a time; and without them the run goes on."""

import ctypes
import logging
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from convnext_imagenet.model.kernels import build

_PROBE = (
    "import logging, sys; logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stdout)\n"
    "import os; from pathlib import Path; from convnext_imagenet.model.kernels import build\n"
    "build.SOURCES = Path(os.environ['PROBE_SOURCES']); print(build.kernels_library())"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if build.processor_flags() < build.NEEDED_CPU_FLAGS:
        pytest.skip("another processor")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(build.SWITCH, raising=False)
    build._choose_library.cache_clear()
    yield tmp_path
    build._choose_library.cache_clear()


@pytest.fixture
def quick_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One line of C++ in place of the kernels, so that a build takes a moment."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "one.cpp").write_text('extern "C" int convnext_probe() { return 7; }\n')
    monkeypatch.setattr(build, "SOURCES", folder)
    return folder


def _library() -> Path | None:
    build._choose_library.cache_clear()
    return build.kernels_library()


def test_a_build_is_kept_and_used_again(cache, quick_sources, monkeypatch):
    first = _library()
    assert first is not None
    assert first.is_relative_to(cache)
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("built a second time"))
    assert _library() == first


def test_two_lines_say_that_a_build_takes_place_and_which_path_runs(cache, quick_sources, caplog):
    with caplog.at_level(logging.INFO):
        library = _library()
        _library()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "compiling the CPU kernels" in lines[0]
    assert lines[1] == lines[2]
    assert lines[1].startswith("CPU kernels are on (AVX")
    assert lines[1].endswith(str(library))


def test_other_sources_get_another_folder(cache, quick_sources):
    first = _library()
    (quick_sources / "one.cpp").write_text('extern "C" int convnext_probe() { return 8; }\n')
    assert _library() != first


@pytest.mark.parametrize("damage", ["cut short", "no mark", "other content"])
def test_a_damaged_cache_is_built_again(cache, quick_sources, damage):
    library = _library()
    assert library is not None
    whole = library.read_bytes()
    library.unlink()  # this process has it loaded: a new file, or the loaded one would change under it
    if damage == "cut short":
        library.write_bytes(whole[:100])
    elif damage == "no mark":
        library.write_bytes(whole)
        library.with_suffix(".sha256").unlink()
    else:
        library.write_bytes(whole[:-1] + b"?")
    assert _library() == library
    assert build._is_whole(library)


def test_a_compiler_that_fails_is_one_line_and_the_run_goes_on(cache, quick_sources, caplog):
    (quick_sources / "one.cpp").write_text("this is no C++\n")
    with caplog.at_level(logging.INFO):
        assert _library() is None
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "failed with code" in warnings[0]
    assert not list(cache.rglob("*.so"))


@pytest.mark.parametrize(
    ("variable", "value", "words"), [("CONVNEXT_KERNELS", "off", "CONVNEXT_KERNELS=off"), ("CXX", "no-such", "no-such")]
)
def test_switched_off_and_no_compiler(cache, quick_sources, monkeypatch, caplog, variable, value, words):
    monkeypatch.setenv(variable, value)
    assert _library() is None
    assert words in caplog.text


def test_no_compiler_at_all(cache, quick_sources, monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(cache))
    assert _library() is None
    assert "no C++ compiler" in caplog.text


def test_another_processor_gets_the_portable_kernels_and_no_network(cache, monkeypatch, caplog):
    monkeypatch.setattr(build, "processor_flags", lambda: frozenset({"neon"}))
    with caplog.at_level(logging.INFO):
        library = _library()
    assert library is not None
    assert build.network_library() is None
    assert "CPU kernels are on (portable)" in caplog.text
    assert "its kernels need an x86-64 processor with AVX2 and FMA" in caplog.text
    exported = ctypes.CDLL(str(library))
    assert hasattr(exported, "convnext_resize")
    assert not hasattr(exported, "ConvNextBlock")


@pytest.mark.parametrize(
    ("switch", "flags", "name", "has_network"),
    [
        ("", {"avx2", "fma", "avx512f"}, "AVX-512", True),
        ("", {"avx2", "fma"}, "AVX2", True),
        ("", {"avx2"}, "portable", False),
        ("", set(), "portable", False),
        ("portable", {"avx2", "fma", "avx512f"}, "portable", False),
    ],
)
def test_the_variant_follows_the_processor(switch: str, flags: set[str], name: str, has_network: bool) -> None:
    variant = build.choose_variant(switch, frozenset(flags))
    assert (variant.name, variant.has_network) == (name, has_network)
    assert {path.name for path in variant.sources()} >= set(build.PORTABLE_SOURCES)


def test_a_cache_that_cannot_be_written_gives_way_to_a_temporary_folder(cache, quick_sources, monkeypatch):
    (cache / "convnext_imagenet").write_text("a file in the way")
    library = _library()
    assert library is not None
    assert not library.is_relative_to(cache)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_cache(cache, quick_sources):
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert _library() is not None


def test_processes_that_build_at_once_agree(cache, quick_sources):
    compiler = cache / "slow-compiler"  # so slow that all three have begun before the first has finished
    compiler.write_text('#!/bin/sh\nsleep 1\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cache),
        "CXX": str(compiler),
        "PROBE_SOURCES": str(quick_sources),
    }

    def run(_: int) -> str:
        command = [sys.executable, "-c", _PROBE]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(3) as pool:
        outputs = list(pool.map(run, range(3)))
    assert sum("compiling the CPU kernels" in output for output in outputs) == 1
    libraries = {output.splitlines()[-1] for output in outputs}
    assert len(libraries) == 1
    assert Path(libraries.pop()).is_file()
    assert not list(cache.rglob("tmp*"))
