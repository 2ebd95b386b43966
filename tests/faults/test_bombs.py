"""Files made to crash, hang or swallow a decoder: each gets a reason, under a ceiling of memory and of time."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from convnext_imagenet.ingest.shards.decode_client import DecodeClient, DecodedImage, DecodeRequest
from convnext_imagenet.ingest.shards.image_policy import ImagePolicy
from convnext_imagenet.records.image_headers import BadImage

CEILING_MIB = 1024
LIMITED = """
import json, resource, sys
from pathlib import Path
from convnext_imagenet.records.images import check_image, decode_rgb
from convnext_imagenet.records.image_headers import BadImage

now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + {ceiling}, now + {ceiling}))
reasons = {{}}
for path in map(Path, sys.argv[1:]):
    data = path.read_bytes()
    try:
        check_image(data)
        decode_rgb(data)
        reasons[path.name] = "ok"
    except BadImage as error:
        reasons[path.name] = error.reason
print(json.dumps(reasons))
"""


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, pixels: bytes, *before: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + body + _chunk(b"IEND", b"")


def _jpeg(size: tuple[int, int], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 200, 90)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _with_sides(data: bytes, height: int, width: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _bombs() -> dict[str, tuple[bytes, set[str]]]:
    """Each bomb with the reasons that are right for it."""
    zeros = bytes(16 << 20)
    many = b"".join(_chunk(b"tEXt", b"a\0b") for _ in range(200_000))
    small = _jpeg((16, 16))
    return {
        "a PNG of 60,000 x 60,000": (_png(60_000, 60_000, b""), {"dimensions"}),
        "a PNG of 8,001 x 8,001": (_png(8_001, 8_001, b""), {"dimensions"}),
        "a PNG of 8,000 x 8,000 without pixels": (_png(8_000, 8_000, b""), {"damaged"}),
        "a PNG of 8,000 x 8,000 zeros": (_png(8_000, 8_000, bytes(8_001 * 8_000)), {"ok"}),
        "a PNG with more pixels than it says": (_png(4, 4, zeros), {"ok", "damaged"}),
        "a PNG with a text of 16 MiB": (_png(1, 1, b"\0\0", _chunk(b"zTXt", b"k\0\0" + zlib.compress(zeros))), {"ok"}),
        "a PNG with a profile of 16 MiB": (
            _png(1, 1, b"\0\0", _chunk(b"iCCP", b"k\0\0" + zlib.compress(zeros))),
            {"ok", "damaged"},
        ),
        "a PNG of 200,000 chunks": (_png(1, 1, b"\0\0", many), {"ok"}),
        "a JPEG of 65,535 x 65,535": (_with_sides(small, 65_535, 65_535), {"dimensions"}),
        "a JPEG that claims 8,000 x 8,000": (_with_sides(small, 8_000, 8_000), {"ok", "damaged"}),
        "a progressive JPEG of 8,000 x 8,000": (_jpeg((8_000, 8_000), progressive=True), {"ok"}),
        "a JPEG of 4,000 markers": (b"\xff\xd8" + b"\xff\xe1\x00\x02" * 4000 + small[2:], {"ok"}),
        "a JPEG of 16 MiB of markers": (b"\xff\xd8" + b"\xff\xe1\x00\x02" * (4 << 20) + small[2:], {"damaged"}),
        "a JPEG of 16 MiB of fill": (b"\xff\xd8" + b"\xff" * (16 << 20) + small[3:], {"ok", "damaged"}),
        "64 MiB and one byte": (b"\xff\xd8" + bytes((64 << 20) - 1), {"too_large"}),
    }


@pytest.mark.slow
def test_bombs_stay_under_a_ceiling_of_memory(tmp_path: Path):
    bombs = _bombs()
    for name, (data, _) in bombs.items():
        (tmp_path / name).write_bytes(data)
    script = LIMITED.format(ceiling=CEILING_MIB << 20)
    paths = [str(tmp_path / name) for name in bombs]
    result = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert {name: reason for name, reason in found.items() if reason not in bombs[name][1]} == {}


def _oddities() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    gray, cmyk = io.BytesIO(), io.BytesIO()
    Image.new("L", (9, 5), 77).save(gray, "JPEG", exif=exif.tobytes())
    Image.new("CMYK", (9, 5), (1, 2, 3, 4)).save(cmyk, "JPEG")
    return {
        "gray with EXIF": gray.getvalue(),
        "CMYK": cmyk.getvalue(),
        "progressive": _jpeg((9, 5), progressive=True),
        "one pixel": _jpeg((1, 1)),
    }


@pytest.mark.parametrize("name", _oddities())
def test_jpeg_cut_at_every_offset_of_its_header_is_refused_and_crashes_nothing(name: str):
    data = _oddities()[name]
    scan = data.index(b"\xff\xda")
    end_of_header = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    cuts = [data[:length] for length in range(end_of_header)]
    ended = [cut + b"\xff\xd9" for cut in cuts]
    with DecodeClient(ImagePolicy()) as client:
        results = client.check([DecodeRequest(cut) for cut in [*cuts, *ended, data]])
    assert isinstance(results.pop(), DecodedImage)
    reasons = {result.reason if isinstance(result, BadImage) else "ok" for result in results}
    assert reasons <= {"empty", "unsupported", "truncated", "damaged"}
