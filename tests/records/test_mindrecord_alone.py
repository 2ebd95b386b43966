"""MindRecord without the rest of MindSpore: the same files, the same rows, and all of MindSpore where it must be."""

import hashlib
import subprocess
import sys
from pathlib import Path

from convnext_imagenet.records.page_sizes import page_layout
from convnext_imagenet.records.schema import Row, shard_name
from convnext_imagenet.records.shards import write_shard

LAYOUT = page_layout(1000, 10_000)
ROWS = [Row(bytes([n % 256, 0]) * (n + 1), n % 3, n, f"clé_{n}", n + 1, 2**31 - 1 - n) for n in range(300)]
WRITE_AND_READ = """
import sys
from pathlib import Path
from convnext_imagenet.records.mindrecord_alone import import_mindrecord_alone, is_mindrecord_alone
import_mindrecord_alone()
from convnext_imagenet.records.page_sizes import PageLayout
from convnext_imagenet.records.schema import Row
from convnext_imagenet.records.shards import read_back, write_shard
path, header_bytes, page_bytes, rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), eval(sys.stdin.read())
write_shard(path, rows, PageLayout(header_bytes, page_bytes))
assert is_mindrecord_alone() and "mindspore.nn" not in sys.modules
assert list(read_back(path)) == rows
print("the same")
"""


def _python(program: str, *arguments: object, text: str = "", folder: Path | None = None) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=folder, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_files_and_rows_are_those_of_all_of_mindspore(tmp_path: Path):
    digests = []
    for name in ("alone", "whole"):
        path = tmp_path / name / shard_name("train", 0, 1)
        path.parent.mkdir()
        if name == "alone":
            words = (path, LAYOUT.header_bytes, LAYOUT.page_bytes)
            assert _python(WRITE_AND_READ, *words, text=repr(ROWS)) == "the same\n"
        else:
            write_shard(path, ROWS, LAYOUT)
        files = (path, path.with_name(f"{path.name}.db"))
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


def test_a_mindspore_whose_mindrecord_needs_the_rest_is_imported_whole(tmp_path: Path):
    package = tmp_path / "mindspore"
    package.mkdir()
    (package / "__init__.py").write_text("is_whole = True\n")
    (package / "mindrecord.py").write_text("from mindspore import is_whole\n")
    program = (
        "from convnext_imagenet.records.mindrecord_alone import import_mindrecord_alone, is_mindrecord_alone\n"
        "import_mindrecord_alone()\nfrom mindspore.mindrecord import is_whole\nprint(is_whole, is_mindrecord_alone())"
    )
    assert _python(program, folder=tmp_path) == "True False\n"
