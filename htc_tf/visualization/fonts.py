"""Text in drawings: fonts that have the letters, and names cut to the room that they have.

DejaVu Sans, which comes with matplotlib, has Latin, Greek and Cyrillic letters. Other scripts (Chinese, Japanese,
Korean, Thai, ...) are drawn with a font of the system.
"""

import bisect
import functools
import importlib.util
import itertools
import os
import sys
import unicodedata

import numpy as np
from PIL import ImageFont, features

ELLIPSIS = "…"
MISSING = "\N{REPLACEMENT CHARACTER}"
LONGEST = 400  # characters of a text that are drawn; no drawing has room for more
MOST_MARKS = 4  # combining marks on one letter; hostile names stack hundreds
JOINERS = "\u200c\u200d"  # format characters that Indic and Persian spelling need
# Fonts with a placeholder glyph for every character.
PLACEHOLDER_FONTS = ("lastresort", "adobeblank")
# Words in the file names of fonts that are used last.
SPECIAL = ("mono", "serif", "italic", "oblique", "bold", "black", "light", "thin", "condensed", "emoji")

_noted = []  # the class name for which this process has printed a note


@functools.cache
def load(size):
    """Returns the `Font` of a size in pixels."""
    return Font(size)


class Font:
    """DejaVu Sans of one size in pixels, with fonts of the system for the letters that it lacks."""

    def __init__(self, size):
        self.size = size

    def getlength(self, text):
        """Returns the width of a text in pixels."""
        return sum(self._width(path, part) for path, part in _runs(clean(text)))

    def fit(self, text, width):
        """Returns a text in one line, cut and ended by "…" if it is wider than `width` pixels."""
        text = clean(text)
        if self.getlength(text) <= width:
            return text
        ends = range(1, len(text) + 1)
        keep = bisect.bisect_right(ends, width, key=lambda end: self.getlength(text[:end] + ELLIPSIS))
        while keep and unicodedata.combining(text[keep : keep + 1] or " "):
            keep -= 1  # do not part a letter from its marks
        return text[:keep].rstrip() + ELLIPSIS

    def draw(self, pen, position, text, fill, anchor="la", **options):
        """Draws one line of text.

        Args:
            pen: A PIL ImageDraw.
            position: (x, y) in pixels.
            text: Any string. A letter that no font has becomes U+FFFD.
            fill: The color.
            anchor: Pillow's text anchor: l, m or r, then a, m or s.
            **options: Further arguments of Pillow's text function, such as `stroke_width`.
        """
        text = clean(text)
        lost = missing(text)
        text = "".join(MISSING if character in lost else character for character in text)
        across, upright = anchor
        x = position[0] - {"l": 0, "m": 0.5, "r": 1}[across] * self.getlength(text)
        ascent, descent = _face(main_font(), self.size).getmetrics()
        y = position[1] + {"a": ascent, "m": (ascent - descent) / 2, "s": 0}[upright]
        for path, part in _runs(text):
            face = _face(path, self.size)
            pen.text((x, y), part, fill, face, "ls", direction=_direction(), **options)
            x += self._width(path, part)

    def _width(self, path, part):
        return _face(path, self.size).getlength(part, direction=_direction())


def class_names(names, numbers):
    """Returns class names as drawings show them; a name that cannot be drawn is replaced by its class's number.

    Args:
        names: Strings.
        numbers: Numbers of the same classes, such as their category ids.
    """
    return [class_name(name, number) for name, number in zip(names, numbers, strict=True)]


def class_name(name, number):
    """Returns a class's name in one line, or its number if no font has its letters."""
    text = clean(str(name))
    if not text:
        return str(number)
    if missing(text):
        _note_once(text)
        return str(number)
    return text


def in_table(name, longest=40):
    """A name as a table of text shows it: one line, cut and ended by "…" beyond `longest` characters."""
    text = clean(str(name))
    return text if len(text) <= longest else text[: longest - 1].rstrip() + ELLIPSIS


def _note_once(name):
    if _noted:
        return
    _noted.append(name)
    reason = "no font of this system has the letters of"
    need = "install a font that has them, such as Debian's fonts-noto-cjk or fonts-noto-core"
    if not _can_shape() and any(map(_is_right_to_left, name)):
        reason, need = "Pillow cannot shape the letters of", "install FriBidi, such as Debian's libfribidi0"
    line = f"note: {reason} the class name {name[:40]}: such classes are shown by number; {need}"
    print(line, file=sys.stderr)


@functools.lru_cache(4096)
def clean(text):
    """Returns a text in one line: composed letters, single spaces, no control characters, at most 400 characters."""
    shown = " ".join(text[: 4 * LONGEST].split())
    shown = unicodedata.normalize("NFC", shown)
    kept, marks = [], 0
    for character in shown:
        category = unicodedata.category(character)
        marks = marks + 1 if category.startswith("M") else 0
        if (category not in ("Cc", "Cf") or character in JOINERS) and marks <= MOST_MARKS:
            kept.append(character)
    shown = "".join(kept).strip(JOINERS + " ")
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + ELLIPSIS


@functools.lru_cache(4096)
def missing(text):
    """Returns the characters of a cleaned text that cannot be drawn."""
    letters = set(text) - {" "}
    if not _can_shape():
        unset = {letter for letter in letters if _is_right_to_left(letter)}
        return frozenset(unset | _without_font(letters - unset))
    return frozenset(_without_font(letters))


def _without_font(letters):
    return {letter for letter in letters if not _has(main_font(), letter) and _font_with(letter) is None}


def _can_shape():
    """Returns True if Pillow can join and order the letters of Arabic and Hebrew."""
    return features.check("raqm")


def _direction():
    """Returns the direction of a line: left to right, so that a file name with Arabic letters still ends in .jpg."""
    return "ltr" if _can_shape() else None


def _is_right_to_left(character):
    return unicodedata.bidirectional(character) in ("R", "AL")


@functools.lru_cache(4096)
def _runs(text):
    """Splits a cleaned text into [(path of a font, part of the text)]; one font if it has all letters."""
    whole = main_font() if _has(main_font(), text) else _font_with(text)
    if whole:
        return [(whole, text)]
    fonts, before = [], main_font()
    for character in text:
        # Marks, spaces and punctuation keep the font of the character before them.
        stays = not character.isalnum() and _has(before, character)
        if not stays:
            before = _font_with(character) if not _has(main_font(), character) else None
            before = before or main_font()
        fonts.append(before)
    pairs = itertools.groupby(zip(fonts, text, strict=True), key=lambda pair: pair[0])
    return [(font, "".join(character for _, character in part)) for font, part in pairs]


def path_of(text):
    """Returns the path of one font for a whole text: DejaVu Sans, unless a font of the system alone has its letters."""
    (path, _), *_ = _runs(clean(text)) or [(main_font(), "")]
    return path


@functools.cache
def main_font():
    """Returns the path of DejaVu Sans."""
    # Found without importing matplotlib, which warns if it cannot write its configuration under HOME.
    (package,) = importlib.util.find_spec("matplotlib").submodule_search_locations
    return os.path.join(package, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")


@functools.lru_cache(256)
def _face(path, size):
    return ImageFont.truetype(path, size)


def _has(path, text):
    return bool(np.isin([ord(character) for character in text if character != " "], _code_points(path)).all())


@functools.lru_cache(4096)
def _font_with(text):
    """Returns the path of the first font of the system that has all letters of a text, or None."""
    return next((path for path in _system_fonts() if _has(path, text)), None)


@functools.cache
def _code_points(path):
    """Returns the code points that a font has, [n] int64; none if the file is not a scalable font."""
    from fontTools.ttLib import TTFont

    try:
        _face(path, 12)  # raises for bitmap fonts, which have other sizes only
        with TTFont(path, fontNumber=0, lazy=True) as font:
            points = list(font.getBestCmap() or ())
    except Exception:  # fontTools raises many kinds of errors on damaged fonts; another font will serve
        points = []
    return np.array(points, np.int64)


@functools.cache
def _system_fonts():
    """Returns the paths of the system's fonts, plain sans serifs first."""
    from matplotlib import font_manager

    def order(path):
        name = os.path.basename(path).lower()
        return "sans" not in name, sum(word in name.replace("sansserif", "") for word in SPECIAL), path

    paths = font_manager.findSystemFonts()
    real = (path for path in paths if not any(word in path.lower().replace(" ", "") for word in PLACEHOLDER_FONTS))
    return sorted(real, key=order)
