"""The contact sheet and its small pictures."""

import io

import pytest
from PIL import Image

from convnext_imagenet.records.gallery import Strip, contact_sheet, first_rows, read_strips
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.row_source import open_records
from convnext_imagenet.records.thumbnails import thumbnail, thumbnails_per_class

from .conftest import jpeg

CLASSES = (ClassEntry(0, "n00000010", "first, the"), ClassEntry(1, "n00000020", "second"))


def opened(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image))


def test_the_first_rows_of_each_class_go_by_sample_id():
    assert first_rows([0, 1, 0, 0, 1], [9, 4, 2, 5, 1], CLASSES, 2) == {0: [2, 3], 1: [4, 1]}
    assert first_rows([1], [0], CLASSES, 2) == {0: [], 1: [0]}


@pytest.mark.parametrize(("width", "height"), [(20, 12), (12, 20), (1, 1), (300, 2)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_thumbnails_are_square_and_rgb(width, height, mode):
    small = opened(thumbnail(jpeg(1, width, height, mode), 32))
    assert (small.size, small.mode, small.format) == ((32, 32), "RGB", "JPEG")


def test_a_thumbnail_shows_the_middle():
    image = Image.new("RGB", (90, 30), "red")
    image.paste("blue", (30, 0, 60, 30))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    colours = opened(thumbnail(buffer.getvalue(), 30)).getpixel((15, 15)), opened(thumbnail(buffer.getvalue(), 30))
    assert all(abs(found - blue) < 10 for found, blue in zip(colours[0], (0, 0, 255), strict=True))
    assert colours[1].getpixel((1, 15))[2] > 200


def test_what_pillow_cannot_read_has_no_thumbnail():
    assert thumbnail(b"\xff\xd8 nothing") is None


@pytest.mark.parametrize(("classes", "expected"), [(1, 6), (10, 6), (500, 4), (1000, 2), (5000, 1)])
def test_the_report_shows_about_two_thousand_pictures(classes, expected):
    assert thumbnails_per_class(classes) == expected


def test_a_sheet_holds_every_picture_below_its_name():
    red = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(red, "PNG")
    strips = [Strip(CLASSES[0], (red.getvalue(), None)), Strip(CLASSES[1], ())]
    sheet = opened(contact_sheet(strips, 32))
    reds = sum(number for number, colour in sheet.getcolors(1 << 20) if colour == (255, 0, 0))
    empty = sum(number for number, colour in sheet.getcolors(1 << 20) if colour == (238, 240, 242))
    assert (sheet.format, reds, empty) == ("PNG", 32 * 32, 32 * 32)


def test_equal_images_give_equal_sheets():
    strips = [Strip(entry, (thumbnail(jpeg(entry.index), 32),)) for entry in CLASSES]
    assert contact_sheet(strips, 32) == contact_sheet(strips, 32)


def test_a_long_name_stays_within_its_strip():
    strips = [Strip(ClassEntry(k, "n00000010", "a name far longer than the picture"), (None,)) for k in range(2)]
    sheet = opened(contact_sheet(strips, 32)).convert("L")
    last_pixels = sheet.crop((sheet.width - 8, 0, sheet.width, sheet.height))
    assert last_pixels.getextrema() == (255, 255)


def test_a_class_that_is_named_twice_is_drawn_once(records_root):
    strips = read_strips(open_records(records_root), ["n00000001", "n00000001"], 2, 32)
    assert [(strip.entry.wnid, len(strip.pictures)) for strip in strips] == [("n00000001", 2)]
