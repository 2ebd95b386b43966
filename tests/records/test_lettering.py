"""Names of every script on a contact sheet: no letter becomes the box that fonts draw for what they lack."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from convnext_imagenet.records import lettering
from convnext_imagenet.records.gallery import Strip, contact_page, contact_sheet
from convnext_imagenet.records.lettering import draw_text, text_width
from convnext_imagenet.records.manifest import ClassEntry


def _picture(text: str) -> bytes:
    picture = Image.new("RGB", (200, 30), "white")
    draw_text(ImageDraw.Draw(picture), (5, 20), text, 13, (0, 0, 0))
    return picture.tobytes()


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch):
    """A machine without any font but Pillow's own."""
    monkeypatch.setattr(lettering, "_font_files", tuple)
    lettering._font_of.cache_clear()
    yield
    lettering._font_of.cache_clear()


@pytest.mark.usefixtures("no_fonts")
@pytest.mark.parametrize(("text", "drawn"), [("café", "cafe"), ("犬", "U+72AC"), ("a犬b", "aU+72ACb"), ("dog", "dog")])
def test_without_fonts_letters_are_spelled(text: str, drawn: str):
    assert _picture(text) == _picture(drawn)


@pytest.mark.parametrize("text", ["café", "cafe\u0301", "犬", "Ünïcødé", "кот", "🐈"])
def test_no_letter_is_a_box(text: str):
    for font, run in lettering._runs(text, 13):
        assert all(lettering._has(font, letter) for letter in run)
    assert _picture(text) != _picture("")


def test_two_forms_of_one_letter_are_drawn_alike():
    assert _picture("café") == _picture("cafe\u0301")


@pytest.mark.skipif(not lettering._font_files(), reason="this machine has no fonts")
def test_a_letter_of_another_font_is_drawn_by_that_font():
    letter = "ж"
    font = lettering._font_of(letter, 13)
    if font is None:
        pytest.skip("no font of this machine has Cyrillic")
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert Path(str(font.path)).is_file()
    draw = ImageDraw.Draw(Image.new("L", (9, 9)))
    assert text_width(draw, letter, 13) == draw.textlength(letter, font)


def test_sheet_and_page_show_names_of_any_script(tmp_path: Path):
    strips = [Strip(ClassEntry(0, "café 犬", "café 犬"), (None,))]
    assert contact_sheet(strips, 32).startswith(b"\x89PNG")
    page = contact_page(strips, "<Images>").decode()
    assert "0 café 犬</h3>" in page
    assert "&lt;Images&gt;" in page
    assert "no picture" in page
    assert "<script>" not in page
