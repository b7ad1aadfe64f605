"""Text in drawings: letters of many scripts, hostile names, and names without a font on this system."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from htc_tf.visualization import fonts


@pytest.fixture
def no_system_fonts(monkeypatch):
    """Leaves DejaVu Sans alone on the system, and clears the caches."""

    def use(*paths):
        monkeypatch.setattr(fonts, "_system_fonts", lambda: list(map(str, paths)))
        monkeypatch.setattr(fonts, "_noted", [])
        for cached in (fonts._font_with, fonts.missing, fonts._runs):
            cached.cache_clear()

    use()
    yield use
    use()


def drawn(text, size=20, **options):
    """[40, 600] bool, True where a text is drawn."""
    picture = Image.new("L", (600, 40))
    fonts.load(size).draw(ImageDraw.Draw(picture), (5, 20), text, 255, "lm", **options)
    return np.asarray(picture) > 100


def box_of_nothing():
    """The main font.s placeholder for a character that it lacks."""
    picture = Image.new("L", (600, 40))
    face = fonts._face(fonts.main_font(), 20)
    ImageDraw.Draw(picture).text((5, 20), "\U000e0fff", 255, face, anchor="lm")
    return np.asarray(picture) > 100


@pytest.mark.parametrize("letters", ["äöüßéñçøåœ", "łżőžşığđ", "αβγΩέώ", "жщыэЯЇђћ", "Ə₂°×—“”"])
def test_european_letters_are_letters(letters):
    assert not fonts.missing(letters)
    pictures = [drawn(letter) for letter in letters]
    assert all(picture.any() and (picture != box_of_nothing()).any() for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == len(letters)
    assert fonts.class_name(letters, 7) == letters


def test_marks_are_composed():
    assert (drawn("e\u0301te\u0301") == drawn("\xe9t\xe9")).all()


def test_a_name_without_letters_becomes_the_number_and_is_noted_once(no_system_fonts, capsys):
    assert fonts.class_names(["cat", "\u4e2d\u6587", "\u0e44\u0e17\u0e22", "\ud800"], [3, 17, 20, 9]) == [
        "cat",
        "17",
        "20",
        "9",
    ]
    (line,) = capsys.readouterr().err.splitlines()
    assert "\u4e2d\u6587" in line and "by number" in line and "fonts-noto" in line
    assert (drawn("\u4e2d") == drawn(fonts.MISSING)).all()


@pytest.mark.parametrize("name", ["", " \n", "\x00\x1b", "\u202e"])
def test_a_name_without_letters_is_its_number(name):
    assert fonts.class_name(name, 5) == "5"


def test_a_font_of_the_system_has_the_rest(no_system_fonts, tmp_path, capsys):
    """A font made here has filled squares for two Chinese letters and for space only."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    pen = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    pen.moveTo((0, 0)), pen.lineTo((0, 800)), pen.lineTo((800, 800)), pen.lineTo((800, 0)), pen.closePath()
    names = [".notdef", "space", "one", "two"]
    square = pen.glyph()
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({32: "space", 0x4E2D: "one", 0x6587: "two"})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(), builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    no_system_fonts(tmp_path / "damaged.ttf", tmp_path / "squares.ttf")
    assert fonts.class_names(["\u4e2d\u6587", "car \u4e2d", "\u4e2d\u6570"], [1, 2, 3]) == [
        "\u4e2d\u6587",
        "car \u4e2d",
        "3",
    ]
    assert drawn("\u4e2d").sum() == pytest.approx(16 * 16, abs=40)
    mixed = drawn("car \u4e2d")
    assert (mixed[:, :40] == drawn("car")[:, :40]).all() and mixed.sum() > drawn("car").sum() + 200
    lengths = [fonts.load(20).getlength(text) for text in ("car \u4e2d", "car x", "x")]
    assert lengths[0] == pytest.approx(lengths[1] - lengths[2] + 20, abs=1)
    assert "\u4e2d\u6570" in capsys.readouterr().err


def test_right_to_left_needs_a_pillow_that_can(no_system_fonts, monkeypatch, capsys):
    name = "\u05e9\u05dc\u05d5\u05dd"  # Hebrew, which DejaVu Sans has
    monkeypatch.setattr(fonts, "_can_shape", lambda: False)
    assert fonts.class_name(name, 4) == "4" and "libfribidi0" in capsys.readouterr().err
    monkeypatch.setattr(fonts, "_can_shape", lambda: True)
    fonts.missing.cache_clear()
    assert fonts.class_name(name, 4) == name


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a\nb\r\tc", "a b c"),
        ("\x1b[31mred\x07", "[31mred"),
        ("\u202egnp.exe", "gnp.exe"),
        ("a" + "\u0301" * 50, "\xe1" + "\u0301" * fonts.MOST_MARKS),
        ("w" * 10_000, "w" * fonts.LONGEST + "…"),
        (" " * 10_000 + "x", ""),
    ],
)
def test_any_name_is_one_line(name, line):
    assert fonts.clean(name) == line


def test_long_names_end_in_dots_and_fit():
    font = fonts.load(14)
    for text in ("short", "a name that is too long", "w" * 10_000, "\u05d0" * 300, "e\u0308" * 99):
        shown = font.fit(text, 80)
        assert font.getlength(shown) <= 80
        assert shown == text if text == "short" else shown.endswith("…")
    assert font.fit("x" * 50, 0) == "…"
    # A letter keeps its marks.
    assert font.fit("q\u0301" * 50, 100).removesuffix("…").endswith("q\u0301")


def test_anchors_are_pillows():
    """A text in the main font lies where Pillow itself draws it, for every anchor."""
    face, font = fonts._face(fonts.main_font(), 20), fonts.load(20)
    for anchor in (across + upright for across in "lmr" for upright in "ams"):
        ours, pillows = Image.new("L", (200, 80)), Image.new("L", (200, 80))
        font.draw(ImageDraw.Draw(ours), (100, 40), "Agx", 255, anchor)
        ImageDraw.Draw(pillows).text((100, 40), "Agx", 255, face, anchor)
        assert np.abs(np.subtract(ours.getbbox(), pillows.getbbox())).max() <= 1, anchor
