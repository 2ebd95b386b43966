"""Stand-ins for CANN's libraries: what a library says of itself, and every way in which they cannot be made."""

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from convnext_imagenet.launch.dry_run import standins_cache
from convnext_imagenet.launch.dry_run.elf import find_words, read_library
from convnext_imagenet.launch.dry_run.standins import PLUGIN, Wanted, find_wanted, standins_source
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.model.kernels.build import find_compiler

Compile = Callable[..., Path]
ROOTS = (PLUGIN, "libmindspore_ge_backend.so", "libhccl_plugin.so")


@pytest.fixture
def compile_library(tmp_path: Path) -> Compile:
    """Compile C++ text as a shared library that may lack symbols."""
    folder = tmp_path / "lib" / "plugin"
    folder.mkdir(parents=True)

    def compiled(name: str, source: str, *flags: str) -> Path:
        command = [*find_compiler(), "-shared", "-fPIC", "-x", "c++", "-", "-o", str(folder / name), *flags]
        subprocess.run(command, input=source, text=True, check=True, capture_output=True)
        return folder / name

    return compiled


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_library_says_what_it_needs_and_offers(compile_library: Compile) -> None:
    source = 'extern "C" { int aclAbsent(); int given() { return aclAbsent(); } }'
    path = compile_library("one.so", source, "-Wl,--no-as-needed", "-lm")
    library = read_library(path)
    assert "given" in library.defined
    assert "aclAbsent" in library.undefined
    assert "aclAbsent" not in library.defined
    assert "libm.so.6" in library.needed


def test_words_are_whole_strings(compile_library: Compile) -> None:
    source = 'extern "C" const char* texts[] = {"aclnnOne", "aclnnTwo", "an aclnnThree", "aclnn-Four"};'
    assert find_words(compile_library("words.so", source), rb"aclnn[A-Za-z0-9]+") == {"aclnnOne", "aclnnTwo"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a library", "not a 64-bit little-endian ELF file"),
        (b"\x7fELF\x02\x01" + b"\xff" * 90, "a damaged ELF file"),
    ],
)
def test_another_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "odd.so"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: .*{words}"):
        read_library(path)


def test_what_the_plugin_wants_is_found_and_can_be_called(compile_library: Compile, tmp_path: Path) -> None:
    wanting = 'extern "C" { int rtAbsent(); int own() { return rtAbsent(); } extern const char* looked_up; }'
    compile_library(PLUGIN, wanting + 'const char* looked_up = "aclnnNew";')
    for name in ROOTS[1:]:
        compile_library(name, "int nothing;")
    wanted = find_wanted(tmp_path / "lib")
    assert wanted.linked == ("rtAbsent",)
    assert {"aclnnNew", "aclnnNewGetWorkspaceSize"} <= {*wanted.looked_up}
    assert "libascendcl.so" in wanted.libraries
    library = ctypes.CDLL(str(compile_library("standins.so", standins_source(wanted))))
    assert [library.rtAbsent(1, 2), library.aclnnNew(), library.aclnnNewGetWorkspaceSize()] == [0, 0, 0]


def test_a_mindspore_without_the_plugin_is_named(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    with pytest.raises(LaunchError, match=f"has no Ascend plugin .{PLUGIN}"):
        find_wanted(tmp_path / "lib")


def test_another_mindspore_is_named(compile_library: Compile, tmp_path: Path) -> None:
    compile_library(PLUGIN, "int nothing;")
    with pytest.raises(LaunchError, match=r"no libhccl_plugin.so, libmindspore_ge_backend.so, so this is another"):
        find_wanted(tmp_path / "lib")


def test_data_that_cannot_be_stood_in_for_is_named(compile_library: Compile, tmp_path: Path) -> None:
    compile_library(PLUGIN, "namespace ge { extern int table; } int* own() { return &ge::table; }")
    for name in ROOTS[1:]:
        compile_library(name, "int nothing;")
    with pytest.raises(LaunchError, match=r"wants data of CANN .*_ZN2ge5tableE.*install CANN"):
        find_wanted(tmp_path / "lib")


@pytest.mark.parametrize(
    ("compiler", "words"), [("no-such", "CXX=no-such is not found"), ("false", "false failed with code 1: no message")]
)
def test_a_build_that_fails_is_one_line_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, words: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(standins_cache, "find_wanted", lambda _: Wanted(("libascendcl.so",), ("aclInit",), ()))
    with pytest.raises(LaunchError, match=words) as caught:
        standins_cache.standins_folder()
    assert "\n" not in str(caught.value)
    assert not list(cache.rglob("*.so"))


def test_a_cache_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(LaunchError, match=r"cannot be written .*set XDG_CACHE_HOME"):
        standins_cache.standins_folder()


def test_stand_ins_are_made_once_and_again_when_damaged(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def wanted(_: Path) -> Wanted:
        made.append(1)
        return Wanted(("libascendcl.so", "libhccl.so"), ("aclInit",), ("aclnnAdd",))

    monkeypatch.setattr(standins_cache, "find_wanted", wanted)
    folder = standins_cache.standins_folder()
    assert folder == standins_cache.standins_folder()
    assert len(made) == 1
    assert (folder / "lib64" / "libhccl.so").exists()
    main = folder / "lib64" / "libascendcl.so"
    main.write_bytes(main.read_bytes()[:100])
    assert standins_cache.standins_folder() == folder
    assert len(made) == 2
    assert main.stat().st_size > 100
