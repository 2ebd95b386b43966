"""Reads a weights file of another program, without running any code in it: tensors by their own names.

The first bytes decide which format it has, not its name.
"""

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.source_mindspore import read_ckpt
from convnext_imagenet.model.exchange.source_safetensors import (
    INDEX_SUFFIX,
    read_exported_card,
    read_safetensors,
    read_shards,
)
from convnext_imagenet.model.exchange.source_torch import read_pth

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.|$)")  # as transformers names parts of a large file
_GRAPH = re.compile(rb"\x08.\x12|\n.[0-9.]+\x12\tMindSpore", re.DOTALL)  # first fields of ONNX, and of MindIR
_HEAD_BYTES = 4096  # enough to recognise every format, and text
_KINDS = "give a .safetensors, a PyTorch .pth or a MindSpore .ckpt with a ConvNeXt's weights"

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SourceFile:
    """The tensors of a file: the weights as trained (`raw`) and their moving average (`ema`); one of them may be None.

    Floats are float32, float16 or float64; bfloat16 was converted to float32, exactly. `card` is the model card in a
    file that we exported.
    """

    path: Path
    raw: Tensors | None
    ema: Tensors | None
    card: ModelCard | None = None

    def choose(self, use: str | None) -> tuple[Tensors, str]:
        """Return the tensors to use and "raw" or "ema": as `use` says, else the average if there is one.

        Raises ModelError when the file does not hold the weights that `use` says.
        """
        chosen = use or ("raw" if self.ema is None else "ema")
        tensors = self.ema if chosen == "ema" else self.raw
        if tensors is None:
            other, words = ("raw", "no moving average") if chosen == "ema" else ("ema", "only a moving average")
            raise ModelError(f"{self.path}: holds {words} of the weights; pass --use {other}")
        return tensors, chosen

    @property
    def holds_both(self) -> bool:
        """Return whether the file holds both sets of weights."""
        return self.raw is not None and self.ema is not None


def read_source(path: Path) -> SourceFile:
    """Return the tensors of a weights file of another program.

    Raises ModelError, in one line, for a file that is missing, empty, truncated or of another format, for a folder, and
    for a file that could only be read by running its code.
    """
    if path.is_dir():
        raise ModelError(f"{path}: a folder, not a file; {_KINDS}")
    if not path.is_file():
        raise ModelError(f"{path}: no such file; {_KINDS}")
    if path.name.endswith(INDEX_SUFFIX):
        return SourceFile(path, read_shards(path), None)
    if part := _SHARD.search(path.name):
        raise ModelError(
            f"{path}: part {int(part[1])} of {int(part[2])} of the weights; give the index beside it, "
            f"{_SHARD.sub('', path.stem)}.safetensors.index.json"
        )
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    read = _reader(path, head)
    raw, ema = read(path)
    return SourceFile(path, raw, ema, read_exported_card(path) if read is read_safetensors else None)


def _reader(path: Path, head: bytes) -> Callable[[Path], tuple[Tensors | None, Tensors | None]]:
    if not head:
        raise ModelError(f"{path}: the file is empty; copy it again")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path}: a Git LFS pointer, not the weights; get them with `git lfs pull`")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return read_safetensors
    if head.startswith(b"PK\x03\x04"):
        _refuse_other_zips(path)
        return read_pth
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return read_pth
    if _GRAPH.match(head):
        raise ModelError(
            f"{path}: a graph (ONNX or MindIR), not weights by name; give the weights that it was made from"
        )
    if head[:1] == b"\n" and b"\x12" in head:  # protobuf: the first parameter of a Checkpoint message
        return read_ckpt
    if head.lstrip()[:1] == b"<":
        raise ModelError(f"{path}: a web page, not weights, so the download failed; download the file again")
    what = "text" if _is_text(head) else "truncated, damaged or of another format"
    raise ModelError(f"{path}: {what}, not weights; {_KINDS}")


def _refuse_other_zips(path: Path) -> None:
    """Raise ModelError for zip files that PyTorch did not write, or that hold a program, not only tensors."""
    try:
        with zipfile.ZipFile(path) as file:
            names = ["/" + name for name in file.namelist()]
    except (zipfile.BadZipFile, OSError):
        return  # the reader names the damage
    if any("/code/" in name for name in names) and any(name.endswith("/constants.pkl") for name in names):
        kind = "a TorchScript program"
    elif any(name.endswith(("/archive_format", "/serialized_exported_program.json")) for name in names):
        kind = "a program of torch.export"
    elif not any(name.endswith("/data.pkl") for name in names):
        raise ModelError(f"{path}: a zip archive that PyTorch did not write, such as NumPy's .npz; {_KINDS}")
    else:
        return
    raise ModelError(f"{path}: {kind}, not only weights; load it where you trust it, and save its state_dict()")


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
