"""What the machine and the installation are: flags, the cache folder, the digest of our sources."""

import importlib.util
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from convnext_imagenet.base.host import ROOMS, cache_folder, processor_flags, sources_digest
from convnext_imagenet.base.wording import as_word

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = """
import numpy as np
from pathlib import Path
from convnext_imagenet.base.host import release_free_memory
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
kept = [np.ones(8192) for _ in range(4000)]  # 64 KiB each: from the heap, not from mappings of their own
del kept[:-1]
before = resident()
release_free_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Linux lists the flags in this form on x86 only")
def test_every_64_bit_x86_has_sse2():
    assert "sse2" in processor_flags()


def test_the_cache_is_where_the_user_wants_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("kernels") == tmp_path / "convnext_imagenet" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("kernels") == tmp_path / ".cache" / "convnext_imagenet" / "kernels"


def test_a_path_is_one_word_of_a_command():
    for name in ("records-out", "my images/o'clock", "$HOME"):
        assert shlex.split(f"show {as_word(Path(name))}") == ["show", name]


def test_the_rooms_are_the_folders_with_code():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_the_digest_covers_every_byte_and_every_name_of_a_room(tmp_path, monkeypatch, room):
    for name in ROOMS:
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "code.py").write_text(name)
    spec = type("Spec", (), {})
    folders = {f"convnext_imagenet.{name}": [str(tmp_path / name)] for name in ROOMS}

    def find_spec(name):
        found = spec()
        found.submodule_search_locations = folders[name]
        return found

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    before, code = sources_digest(), tmp_path / room / "inner" / "code.py"
    assert sources_digest() == before
    code.write_text("changed")
    assert sources_digest() != before
    code.write_text(room)
    assert sources_digest() == before
    code.rename(code.with_name("kernel.cpp"))
    assert sources_digest() != before


def test_a_digest_of_some_rooms_ignores_the_others():
    assert sources_digest(["base"]) != sources_digest(["base", "records"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep nothing back")
def test_free_memory_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100 << 20
