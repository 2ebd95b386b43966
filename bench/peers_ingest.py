"""What other tools need for the same tree of class folders, each as a program: TREE OUT WORKERS.

Each is written as its own documentation shows it, and stores the files' bytes as they are. None of them decodes an
image to check it or reads back what it has written.
"""

_LIST = """
import sys
from pathlib import Path
tree, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
classes = sorted(path.name for path in tree.iterdir())
items = [(str(path), label) for label, name in enumerate(classes) for path in sorted((tree / name).iterdir())]
"""

_WEBDATASET = f"""{_LIST}
import multiprocessing, webdataset

def write(part):
    with webdataset.TarWriter(str(out / f"train-{{part:05d}}.tar")) as sink:
        for path, label in items[part::workers]:
            sink.write({{"__key__": Path(path).stem, "jpg": Path(path).read_bytes(), "cls": label}})

if __name__ == "__main__":
    out.mkdir()
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(write, range(workers))
"""

_STREAMING = f"""{_LIST}
import multiprocessing
from streaming import MDSWriter

def write(part):
    with MDSWriter(out=str(out / str(part)), columns={{"image": "bytes", "label": "int"}}, hashes=["sha256"]) as sink:
        for path, label in items[part::workers]:
            sink.write({{"image": Path(path).read_bytes(), "label": label}})

if __name__ == "__main__":
    out.mkdir()
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(write, range(workers))
"""

_LITDATA = """
import sys
from pathlib import Path
import litdata

def read(item):
    return {"image": Path(item[0]).read_bytes(), "label": item[1]}

if __name__ == "__main__":
    tree, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    classes = sorted(path.name for path in tree.iterdir())
    items = [(str(path), label) for label, name in enumerate(classes) for path in sorted((tree / name).iterdir())]
    litdata.optimize(fn=read, inputs=items, output_dir=str(out), num_workers=workers, chunk_bytes="64MB")
"""

_MINDSPORE = """
import shutil, sys
from pathlib import Path
from mindspore.mindrecord import ImageNetToMR

tree, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
out.mkdir()
classes = sorted(path.name for path in tree.iterdir())
(out / "map.txt").write_text("".join(f"{name} {label}\\n" for label, name in enumerate(classes)))
ImageNetToMR(str(out / "map.txt"), str(tree), str(out / "train.mindrecord"), workers).transform()
"""

PROGRAMS = {
    "webdataset TarWriter, 2 processes": _WEBDATASET,
    "mosaicml-streaming MDSWriter, 2 processes": _STREAMING,
    "litdata optimize, 2 workers": _LITDATA,
    "MindSpore ImageNetToMR, 2 files": _MINDSPORE,
}
IMPORTS = {
    "webdataset TarWriter, 2 processes": "import webdataset",
    "mosaicml-streaming MDSWriter, 2 processes": "import streaming",
    "litdata optimize, 2 workers": "import litdata",
    "MindSpore ImageNetToMR, 2 files": "import mindspore.mindrecord",
}
WITH_MINDSPORE = {"MindSpore ImageNetToMR, 2 files"}
