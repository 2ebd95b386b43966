"""Finds the weights file that a CHECKPOINT argument means, without reading it. Imports no MindSpore."""

from pathlib import Path

from convnext_imagenet.base.protocol import kind_of
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.settings import Weights

_SUFFIX = ".weights.safetensors"
_AVERAGE = ".ema"  # what training adds to an epoch's name for the moving average of its weights


def resolve_checkpoint(path: Path, weights: Weights = "best") -> Path:
    """Return the weights file itself, or for a RUN directory the file that its pointer `best` names.

    The pointer holds a checkpoint's name, `epoch-0003`, or `epoch-0003.ema` if the average of its weights is better.
    Raises ServeError when there is no such file.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ServeError(f"{path}: no such file or directory; give a weights file ({_SUFFIX}) or a RUN directory")
    if not (path / "plan.json").is_file():
        raise ServeError(
            f"{path}: not a RUN directory (it has no plan.json); give a RUN directory or a weights file ({_SUFFIX})"
        )
    kind = kind_of(path)
    if kind in ("records", "an audit", "an export"):
        raise ServeError(f"{path}: holds {kind}, not a RUN; give a RUN directory or a weights file ({_SUFFIX})")
    pointer = path / "best"
    if not pointer.is_file():
        raise ServeError(
            f"{path}: no epoch has finished yet (there is no `best`); run the same `convnext-train run` again to "
            f"resume it, or give a weights file"
        )
    unit = pointer.read_text(errors="replace").strip()
    is_average = weights == "ema" or (weights == "best" and unit.endswith(_AVERAGE))
    epoch = unit.removesuffix(_AVERAGE)
    folder = path / "checkpoints"
    file = folder / (f"{epoch}{_AVERAGE}.safetensors" if is_average else f"{epoch}{_SUFFIX}")
    if not unit or Path(unit).name != unit or not file.is_file():
        known = sorted(folder.glob(f"*{_SUFFIX}"))
        way_out = f"give a weights file, such as {known[-1]}" if known else "give a weights file"
        if weights == "ema":
            way_out = "the run keeps no moving average (ema) of its weights: pass --weights raw"
        raise ServeError(f"{pointer}: names {unit!r}, but {folder} holds no {file.name}; {way_out}")
    return file
