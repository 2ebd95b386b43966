"""Generated pictures that no two seeds make alike, and copies of them."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

_PLANTED = Path(__file__).resolve().parents[3] / "bench" / "planted_copies.py"
_spec = importlib.util.spec_from_file_location("planted_copies", _PLANTED)
assert _spec is not None
assert _spec.loader is not None
planted_copies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(planted_copies)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the notes of audits out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A scene of random soft colours and shapes, as unlike another seed's as two photos are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = (rng.uniform(0, 1, 4) * (width, height, width / 2, height / 2)).tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=colour)
    return image


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """The picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
