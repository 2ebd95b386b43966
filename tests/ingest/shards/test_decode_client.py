"""Images that crash, hang or swallow the decoder: each costs itself, in time and memory that are bounded."""

import functools
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.shards.decode_client import DecodeClient, DecodedImage, DecodeRequest
from convnext_imagenet.ingest.shards.image_policy import ImagePolicy, Reencoding
from convnext_imagenet.records.image_headers import BadImage, ImageInfo

PROGRAM = """
import os, signal, sys, time
from convnext_imagenet.ingest.shards import decode_worker
check = decode_worker.check_image_and_luminance
def check_image(image, *options):
    if image.endswith(b"SEGV"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if image.endswith(b"HANG"):
        time.sleep(60)
    if image.endswith(b"GROW"):
        bytearray(1 << 40)
    if image.endswith(b"EXIT"):
        os._exit(7)
    return check(image, *options)
decode_worker.check_image_and_luminance = check_image
decode_worker.main(sys.argv[1:])
"""


@pytest.fixture
def fragile(tmp_path: Path):
    """A client with a decoder that dies, hangs or grows when an image ends in the word for it."""
    (tmp_path / "fragile.py").write_text(PROGRAM)
    return functools.partial(DecodeClient, program=[str(tmp_path / "fragile.py")])


def _progressive(side_px: int, extra_scans: int = 0) -> bytes:
    """A gray progressive JPEG of one colour; its last scan may be repeated, which decoders read each time."""
    buffer = io.BytesIO()
    Image.new("L", (side_px, side_px), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()[:-2]
    return data + data[data.rindex(b"\xff\xda") :] * extra_scans + b"\xff\xd9"


def _decoders() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if "decode_worker" in " ".join(child.cmdline())}


def _summary(results) -> list[str]:
    return [result.reason if isinstance(result, BadImage) else "ok" for result in results]


def test_good_images_come_back_as_they_are(pieces):
    images = [pieces.jpeg(seed, size_px=16 + seed) for seed in range(3)]
    with DecodeClient(ImagePolicy()) as client:
        results = client.check([DecodeRequest(image) for image in images])
    assert results == [
        DecodedImage(image, ImageInfo("jpeg", "RGB", 16 + n, 16 + n), is_reencoded=False, thumbnail=None)
        for n, image in enumerate(images)
    ]


def test_bad_images_come_back_with_their_reasons(pieces):
    batch = [pieces.jpeg(1), b"", pieces.jpeg(2)[:-5], b"<html>", pieces.jpeg(3)]
    with DecodeClient(ImagePolicy()) as client:
        results = client.check([DecodeRequest(image) for image in batch])
    assert _summary(results) == ["ok", "empty", "truncated", "unsupported", "ok"]


def test_thumbnails_come_for_those_that_want_one(pieces):
    with DecodeClient(ImagePolicy()) as client:
        batch = [DecodeRequest(pieces.jpeg(1), wants_thumbnail=True), DecodeRequest(pieces.jpeg(2))]
        first, second = client.check(batch)
    assert Image.open(io.BytesIO(first.thumbnail)).size == (96, 96)
    assert second.thumbnail is None


@pytest.mark.parametrize(
    ("word", "reason", "detail"),
    [
        (b"SEGV", "crashed", "ended by SIGSEGV"),
        (b"EXIT", "crashed", "ended with code 7"),
        (b"HANG", "timeout", "not decoded after 1 s"),
        (b"GROW", "memory", "needs more than 512 MiB"),
    ],
)
def test_image_that_the_decoder_does_not_survive_costs_itself_alone(fragile, pieces, word, reason, detail):
    good = pieces.jpeg(1)
    with fragile(ImagePolicy(timeout_seconds=1, memory_mib=512)) as client:
        batch = [DecodeRequest(image) for image in (good, good + word, good)]
        results = client.check(batch)
    assert _summary(results) == ["ok", reason, "ok"]
    assert detail in results[1].detail


def test_several_crashes_in_one_batch_are_told_apart(fragile, pieces):
    good = pieces.jpeg(1)
    with fragile(ImagePolicy()) as client:
        batch = [DecodeRequest(image) for image in (good + b"SEGV", good + b"EXIT", good, good + b"SEGV")]
        assert _summary(client.check(batch)) == ["crashed", "crashed", "ok", "crashed"]


def test_what_could_not_be_read_passes_through_unchanged(fragile, pieces):
    good, unread = pieces.jpeg(1), [BadImage("not_a_file", "a pipe"), BadImage("too_large", "much")]
    with fragile(ImagePolicy()) as client:
        batch = [unread[0], DecodeRequest(good), DecodeRequest(good + b"SEGV"), unread[1], DecodeRequest(good)]
        answers = client.check(batch)
        assert _summary(answers) == ["not_a_file", "ok", "crashed", "too_large", "ok"]
        assert [answers[0], answers[3]] == unread
        assert client.check(unread) == unread
        assert _summary(client.check([DecodeRequest(good)])) == ["ok"], "no answer of theirs is waited for"


def test_stray_signal_costs_no_image(pieces):
    before = _decoders()
    with DecodeClient(ImagePolicy()) as client:
        client.check([DecodeRequest(pieces.jpeg(1))])
        [child] = _decoders() - before
        os.kill(child.pid, signal.SIGKILL)
        assert _summary(client.check([DecodeRequest(pieces.jpeg(n)) for n in range(3)])) == ["ok"] * 3


def test_endless_scans_end_in_a_timeout():
    batch = [DecodeRequest(_progressive(4000, extra_scans=3000)), DecodeRequest(_progressive(4000))]
    started = time.monotonic()
    with DecodeClient(ImagePolicy(timeout_seconds=1)) as client:
        assert _summary(client.check(batch)) == ["timeout", "ok"]
    assert time.monotonic() - started < 20


def test_image_that_needs_too_much_memory_is_named_as_such():
    with DecodeClient(ImagePolicy(memory_mib=64)) as client:
        assert _summary(client.check([DecodeRequest(_progressive(8000))])) == ["memory"]
    with DecodeClient(ImagePolicy()) as client:
        assert _summary(client.check([DecodeRequest(_progressive(8000))])) == ["ok"]


def test_larger_images_are_made_smaller_and_marked(pieces):
    small, large = pieces.jpeg(1, size_px=32), pieces.jpeg(2, size_px=33)
    with DecodeClient(ImagePolicy(reencoding=Reencoding(max_side_px=32, quality=80))) as client:
        kept, made = client.check([DecodeRequest(small), DecodeRequest(large)])
    assert (kept.image, kept.is_reencoded) == (small, False)
    assert made.is_reencoded
    assert Image.open(io.BytesIO(made.image)).size == (32, 32) == (made.info.width, made.info.height)


def test_process_that_does_not_start_is_an_error_and_no_answer(tmp_path: Path):
    (tmp_path / "broken.py").write_text("raise SystemExit(9)")
    with (
        DecodeClient(ImagePolicy(), program=[str(tmp_path / "broken.py")]) as client,
        pytest.raises(IngestError, match=r"does not start .*code 9"),
    ):
        client.check([DecodeRequest(b"x")])


def test_no_process_is_left(pieces):
    before = _decoders()
    with DecodeClient(ImagePolicy()) as client:
        client.check([DecodeRequest(pieces.jpeg(1))])
        children = _decoders() - before
        assert len(children) == 1
    assert not any(child.is_running() for child in children)


def test_a_batch_whose_answers_nobody_took_does_not_answer_for_the_next(pieces):
    with DecodeClient(ImagePolicy()) as client:
        client.begin([DecodeRequest(b"")])
        client.begin([DecodeRequest(pieces.jpeg(1)), DecodeRequest(b"")])
        assert _summary(client.results()) == ["ok", "empty"]
        assert client.results() == []


def test_lasting_client_is_one_for_each_policy_and_ends_with_its_process(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import psutil\n"
        "from convnext_imagenet.ingest.shards.decode_client import DecodeRequest, lasting_client\n"
        "from convnext_imagenet.ingest.shards.image_policy import ImagePolicy\n"
        "lasting_client(ImagePolicy()).check([DecodeRequest(b'x')])\n"
        "assert lasting_client(ImagePolicy()) is lasting_client(ImagePolicy())\n"
        "[child] = psutil.Process().children()\n"
        "print(child.pid)\n"
    )
    pid = int(subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout)
    for _ in range(50):
        if not psutil.pid_exists(pid):
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} outlives its worker by five seconds")
