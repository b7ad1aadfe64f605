"""Names of output files: unique, valid on any file system, and different from the input images' names."""

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from htc_tf.errors import UserError

MAX_NAME = 255  # bytes of a file name, the limit of nearly every file system
MAX_STEM = 230  # bytes; leaves room for a suffix, a cut-out's number and a part of its class
MAX_LABEL = 40  # characters of a class name in a file name


class InputFile(NamedTuple):
    """An image or video, or a frame of one, and what its results are called.

    Attributes:
        path: The file.
        image_id: Number, unique among all images and frames.
        drawing: Name of the drawing, in the output folder.
        name: Path relative to the folder that all input files share, with slashes; of a URL the file's name, unique.
        stem: `name` without its suffix, with a number if another file has the same.
        frame: Number of a video's frame; None for an image.
    """

    path: Path
    image_id: int
    drawing: str
    name: str
    stem: str
    frame: int | None = None


def name_files(paths: Sequence[Path], endings: Sequence[str]) -> list[InputFile]:
    """Returns the InputFile of each path.

    Args:
        paths: Paths of images and videos.
        endings: Suffix of each drawing.
    """
    names = relative_names(paths)
    stems = unique_stems([name.removesuffix(PurePath(name).suffix) for name in names])
    rows = zip(paths, image_ids(paths), drawing_names(paths, endings), names, stems, strict=True)
    return [InputFile(*row) for row in rows]


def relative_names(paths: Sequence[Path]) -> list[str]:
    """Returns each path relative to the folder that all of them share, with slashes.

    A URL has the name of its file, with a number if another path has that name.
    """
    files = {path: os.path.abspath(path) for path in paths if isinstance(path, Path)}
    try:
        folder = os.path.commonpath([os.path.dirname(path) for path in files.values()] or [os.curdir])
    except ValueError:  # several drives of Windows
        files = {}
    names = {path: PurePath(os.path.relpath(file, folder)).as_posix() for path, file in files.items()}
    taken, numbers = set(names.values()), Counter()
    for path in paths:
        if path in names:
            continue
        name = path.name
        while name in taken:
            numbers[path.name] += 1
            name = f"{path.stem}_{numbers[path.name] + 1}{path.suffix}"
        names[path] = name
        taken.add(name)
    return [names[path] for path in paths]


def image_ids(paths: Sequence[Path]) -> list[int]:
    """Returns unique image ids, below 2**63: a COCO file's number, else the place in the list or the next free one."""
    ids, taken = {}, set()
    for path in paths:
        if re.fullmatch(r"[0-9]{1,18}", path.stem) and int(path.stem) not in taken:
            ids[path] = int(path.stem)
            taken.add(ids[path])
    free = (number for number in itertools.count(len(paths)) if number not in taken)
    for place, path in enumerate(paths):
        if path not in ids:
            ids[path] = place if place not in taken else next(free)
            taken.add(ids[path])
    return [ids[path] for path in paths]


def drawing_names(paths: Sequence[Path], endings: Sequence[str] | None = None) -> list[str]:
    """Returns NAME.png for each path; if files of several folders share a name, the later ones get a number.

    Args:
        paths: Paths of images and videos.
        endings: Suffix of each drawing; None for .png.
    """
    stems = unique_stems([path.stem for path in paths])
    return [stem + ending for stem, ending in zip(stems, endings or itertools.repeat(".png"), strict=False)]


def unique_stems(stems: Sequence[str]) -> list[str]:
    """Returns stems of file names, shortened where necessary; if several are equal, the later ones get a number.

    Stems that differ in case or in the Unicode form of accents are one file on a Mac, and count as equal.
    """
    unique, numbers = {}, Counter()  # stem, and the numbers given so far, by folded stem
    for stem in stems:
        found = shorten(stem)
        folded = _fold(found)
        while _fold(found) in unique:
            numbers[folded] += 1
            found = shorten(stem, f"_{numbers[folded] + 1}")
        unique[_fold(found)] = found
    return list(unique.values())


def cut_out_name(stem: str, number: int, class_name: str) -> str:
    """Returns STEM_01_person.png, with the valid characters of a class name, at most 40 of them."""
    label = re.sub(r"\W+", "_", class_name)[:MAX_LABEL].encode()
    start, ending = f"{shorten(stem)}_{number:02d}_", ".png"
    return start + label[: MAX_NAME - len(os.fsencode(start + ending))].decode(errors="ignore") + ending


def shorten(stem: str, end: str = "") -> str:
    """Returns `stem` + `end`, with the stem, after its last slash, cut so that both fit MAX_STEM bytes."""
    room = MAX_STEM - len(os.fsencode(end))
    folder, slash, name = stem.rpartition("/")
    encoded = os.fsencode(name)
    return folder + slash + (name if len(encoded) <= room else encoded[:room].decode(errors="ignore")) + end


def refuse_replacing(paths: Iterable[Path], names: Iterable[str], output: Path) -> None:
    """Raises UserError if one of output/NAME is a file of `paths`, or a link to one."""
    inputs = {_identity(path) for path in paths} - {None}
    for name in names:
        if _identity(output / name) in inputs:
            raise UserError(f"--output {output}: {name} would replace an image of --input; name another folder")


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
