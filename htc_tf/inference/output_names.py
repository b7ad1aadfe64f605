"""File names of drawings: unique, valid on any file system, and different from the input images' names."""

import itertools
import os
import re
import unicodedata

from htc_tf.errors import UserError

MAX_NAME = 255  # bytes of a file name, the limit of nearly every file system
MAX_STEM = 230  # bytes; leaves room for a suffix, a cut-out's number and a part of its class
MAX_LABEL = 40  # characters of a class name in a file name


def drawing_names(paths, endings=None):
    """Returns NAME.png for each path; if files of several folders share a name, the later ones get a number.

    Names that differ in case or in the Unicode form of accents are one file on a Mac, and count as equal.

    Args:
        paths: Paths of images and videos.
        endings: Suffix of each drawing; None for .png.
    """
    names = {}  # name by folded stem
    for path, ending in zip(paths, endings or itertools.repeat(".png"), strict=False):
        parts = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
        stems = (shorten(path.stem, part) for part in parts)
        stem = next(stem for stem in stems if _fold(stem) not in names)
        names[_fold(stem)] = stem + ending
    return list(names.values())


def cut_out_name(stem, number, class_name):
    """Returns STEM_01_person.png, with the valid characters of a class name, at most 40 of them."""
    label = re.sub(r"\W+", "_", class_name)[:MAX_LABEL].encode()
    start, ending = f"{shorten(stem)}_{number:02d}_", ".png"
    return start + label[: MAX_NAME - len(os.fsencode(start + ending))].decode(errors="ignore") + ending


def shorten(stem, end=""):
    """Returns `stem` + `end`, with the stem cut so that both fit MAX_STEM bytes."""
    room = MAX_STEM - len(os.fsencode(end))
    encoded = os.fsencode(stem)
    return (stem if len(encoded) <= room else encoded[:room].decode(errors="ignore")) + end


def refuse_replacing(paths, names, output):
    """Raises UserError if one of output/NAME is a file of `paths`, or a link to one."""
    inputs = {_identity(path) for path in paths} - {None}
    for name in names:
        if _identity(output / name) in inputs:
            raise UserError(
                f"--output {output}: the drawing {name} would replace an image of --input; name another folder"
            )


def _fold(stem):
    """Returns the same text for all stems that a file system may take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())


def _identity(path):
    """Returns the device and inode of a file, which its links share; None if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return None
    return status.st_dev, status.st_ino
