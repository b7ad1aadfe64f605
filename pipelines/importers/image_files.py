"""Image files that annotation tools name: where they are, and their sizes."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

from htc_tf.data import image_io
from htc_tf.data.annotations import as_integer

from .. import file_names
from ..checks import Counters, Rejected, show
from ..file_names import IMAGE_SUFFIXES


def find_image(name: Any, folder: Path, images: Path, key: str = "the image's name") -> str:
    """Returns the path of an image relative to `images`, with slashes.

    If the image is not where its name says, an image of that name beside the file or in `images` is taken. The name may
    differ in case and in the Unicode form of accents: IMG_1.JPG for IMG_1.jpg.

    Args:
        name: Path of the image as the tool wrote it, on any system, relative to `folder` or absolute.
        folder: The folder of the tool's file.
        images: The folder of the images.
        key: Where the name stands, for messages.
    Raises:
        Rejected: The image is missing, or outside of `images`.
    """
    if not isinstance(name, str) or not name.strip():
        raise Rejected("image_missing", f"{key} is {show(name)}, not the name of an image")
    path = os.path.join(folder, name)
    if "\\" in name or not os.path.isfile(path):
        path = _search(name, folder, images)
    above, base = os.path.split(path)
    relative = os.path.join(_relative(above, str(images)), base)
    if relative.startswith(os.pardir + os.sep):
        raise Rejected("image_outside_root", f"{show(path)} is outside of {images}: name its folder by --images")
    return Path(relative).as_posix() if os.sep != "/" else relative


def _search(name, folder, images):
    named = PureWindowsPath(name)  # its separators are \ and /
    for place, wanted in ((folder, named.as_posix()), (folder, named.name), (images, named.name)):
        path = os.path.join(place, file_names.resolve(str(place), wanted, Counters()))
        if os.path.isfile(path):
            return path
    raise Rejected("image_missing", f"the image {show(name)} is missing, both beside the file and in {images}")


@functools.lru_cache(maxsize=1024)
def _relative(folder, root):
    relative = os.path.relpath(folder, root)
    return "" if relative == os.curdir else relative


def read_size(path: Path | str) -> tuple[int, int]:
    """Returns the (height, width) of an image file in pixels, with its EXIF orientation applied."""
    try:
        return check_size(*image_io.read_size(path))
    except image_io.ImageError as error:
        raise Rejected("image_unreadable", f"{show(str(path))} cannot be read ({error})") from None


def check_size(height: Any, width: Any) -> tuple[int, int]:
    """Returns the (height, width) of an image as a tool's file states them, if they are possible."""
    if not all(type(side) is int and side > 0 for side in (height, width)):
        raise Rejected("file_malformed", f"the image's height and width are {show(height)} and {show(width)}")
    if height * width > image_io.MAX_PIXELS:
        size = f"{show(width)} x {show(height)}"
        raise Rejected("image_too_large", f"{size} are more than {image_io.MAX_PIXELS:,} pixels")
    return height, width


def stated_size(path: Path | str, **sides: Any) -> tuple[int, int]:
    """Returns the (height, width) of an image as a tool's file states them, if they are the image's.

    Args:
        path: The image file.
        **sides: The height and the width, by the keys under which the file states them.
    Raises:
        Rejected: They are no size, or not the image's.
    """
    height, width = whole_size(**sides)
    compare_size(path, height, width)
    return height, width


def whole_size(**sides: Any) -> tuple[int, int]:
    """Returns the (height, width) that `stated_size` takes, which may be written as "48" or 48.0, if it is possible."""
    height, width = map(as_integer, sides.values())
    if not (height and width and min(height, width) > 0):
        stated = [f"no {key}" if side is None else f"{key} is {show(side)}" for key, side in sides.items()]
        raise Rejected("image_malformed", f"{', '.join(stated)}; both must be the image's, in pixels")
    return check_size(height, width)


def compare_size(path: Path | str, height: int, width: int) -> None:
    """Raises Rejected unless a stated size is that of an image file, with or without its EXIF orientation.

    The preparation refuses the others in the same words, but only after masks of the stated size have been made.
    """
    high, wide = read_size(path)
    if (height, width) == (high, wide):
        return
    try:
        stored = image_io.stored_size(image_io.open_image(image_io.read_file(path)))
    except image_io.ImageError as error:
        raise Rejected("image_unreadable", f"{show(str(path))} cannot be read ({error})") from None
    if (width, height) != stored:
        found = f"{stored[0]} x {stored[1]}" + (f" ({wide} x {high} upright)" if (wide, high) != stored else "")
        raise Rejected("image_size_differs", f"the image's file {found}, annotated {width} x {height}")


def find_by_stem(stem: str, folders: Iterable[Path], images: Path) -> str | None:
    """Returns the path, relative to `images`, of the first image in the folders whose name without suffix is `stem`."""
    for folder in folders:
        try:
            found = _list_stems(str(folder), os.stat(folder).st_mtime_ns).get(stem)
        except OSError:
            continue
        if found:
            return find_image(found, folder, images)
    return None


@functools.lru_cache(maxsize=64)
def _list_stems(folder, changed):
    names = sorted(os.listdir(folder), reverse=True)  # of several, the first in alphabetical order remains
    return {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
