"""Image file names: finds the file that an entry of the annotation file means.

Annotation tools write names in the notation of their system: with backslashes, percent-encoded, or below the image
folder's own name. File systems differ in case sensitivity and in the Unicode form of accents. A name is corrected only
if exactly one file matches; otherwise `hint` describes what exists instead.
"""

import functools
import os
import unicodedata
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from htc_tf.data.image_io import SUFFIXES as IMAGE_SUFFIXES

from . import files
from .checks import Counters, Rejected, encodable, show

MAX_LENGTH = 4096  # Linux's PATH_MAX


def file_name(entry: dict[str, Any], root: str | None, counters: Counters) -> str:
    """Returns the image file of an entry, relative to the folder `root`, which it does not leave.

    Args:
        entry: An entry of the annotation file's images.
        root: The image folder; if None, the name is taken unchecked.
        counters: Counters.
    Raises:
        Rejected: The entry names no file, or one outside `root`.
    """
    name, url = entry.get("file_name"), entry.get("coco_url")
    if name is None and isinstance(url, str):
        name = _name_of_url(url, root)
        counters.count("file_names_from_url")
    if not (isinstance(name, str) and name.strip()):
        others = [
            key for key, value in entry.items() if isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)
        ]
        advice = f"; rename {others[0]!r}, which contains a file name" if others and others[0] != "file_name" else ""
        raise Rejected("image_malformed", f"no file_name (a string){advice}")
    if "\0" in name or encodable(name) != name:
        raise Rejected("image_malformed", "file_name contains a NUL or an unpaired surrogate, which no file name can")
    if len(name) > MAX_LENGTH:
        raise Rejected("image_malformed", f"file_name has {len(name):,} characters, more than a path can have")
    slashed = PurePosixPath(name.replace("\\", "/"))
    if not slashed.parts:
        raise Rejected("image_malformed", f"file_name {show(name)} names no file")
    if ".." in slashed.parts:
        raise Rejected("image_outside_root", f"file_name {show(name)} leaves the folder through ..")
    if slashed.is_absolute() or slashed.parts[0][1:] == ":":
        inside = _inside(root, slashed) if slashed.is_absolute() else None
        if inside is None:
            detail = f"file_name {show(name)} is absolute, and not inside --images: make it relative to that folder"
            raise Rejected("image_outside_root", detail)
        counters.count("file_names_relative")
        return inside
    return name if root is None else resolve(root, name, counters)


def resolve(root: str, file_name: str, counters: Counters) -> str:
    """Returns the file that `file_name` means, relative to `root`; `file_name` itself if no other file matches.

    Files in a store (gs://…) are not looked up, because each request takes too long.
    """
    if files.is_remote(root) or os.path.lexists(os.path.join(root, file_name)):
        return file_name
    for spelling in _spellings(root, file_name):
        found = _match(root, PurePosixPath(spelling).parts)
        if found is not None:
            counters.count("file_names_corrected")
            return found
    return file_name


def hint(root: str, file_name: str) -> str:
    """Returns the end of a message about a missing file, which names similar files below `root`; "" if none exist."""
    if files.is_remote(root):
        return ""
    path = PurePosixPath(unquote(file_name.replace("\\", "/")))
    if path.name in _names(root).get(_key(path.name), ()):
        return f", but {show(path.name)} is directly in --images: correct file_name, or move the files"
    folder = os.path.join(root, *path.parts[:-1])
    if similar := _stems(folder).get(_key(path.stem)):
        return f", but there is {show(similar)}"
    if len(path.parts) > 1 and not os.path.isdir(os.path.join(root, path.parts[0])):
        above = "; give the folder above" if os.path.isdir(os.path.join(root, os.pardir, path.parts[0])) else ""
        return f"; --images has no folder {show(path.parts[0])}{above}"
    return ""


def _name_of_url(url, root):
    """Returns the last folder and the name of a URL, as in COCO (train2017/000000000009.jpg).

    The folder is left out if it is `root` itself, or exists neither below nor beside it. LVIS's validation images are
    in train2017 and val2017: if `root` is one of these, the others' names keep their folder, and are missing.
    """
    try:
        parts = PurePosixPath(unquote(urlsplit(url).path)).parts[-2:]
    except ValueError:
        raise Rejected("image_malformed", f"no file_name, and coco_url {show(url)} is no URL") from None
    if len(parts) < 2 or root is None:
        return "/".join(parts[-1:])
    beside = parts[0] != files.base_name(root) and _is_folder(files.join(os.path.dirname(root), parts[0]))
    return "/".join(parts if beside or _is_folder(files.join(root, parts[0])) else parts[-1:])


def _is_folder(path):
    return _is_folder_in_store(path) if files.is_remote(path) else os.path.isdir(path)


@functools.cache
def _is_folder_in_store(path):
    return files.is_folder(path)


def _inside(root, path):
    """Returns an absolute path relative to `root`, if its folder, with links resolved, is `root` or below it."""
    if root is None or files.is_remote(root):
        return None
    folder = PurePosixPath(_real_path(str(path.parent)))
    return str((folder / path.name).relative_to(root)) if folder.is_relative_to(root) else None


@functools.lru_cache(maxsize=1024)
def _real_path(path):
    return os.path.realpath(path)


def _spellings(root, file_name):
    """Yields the name as other systems write it; always relative and inside `root`."""
    slashed = file_name.replace("\\", "/")
    spellings = [file_name, slashed, unquote(slashed), slashed.strip()]
    own = PurePosixPath(root).parts
    for name in list(spellings):
        parts = PurePosixPath(name).parts
        # A name relative to a folder above `root` starts with the last names of `root`.
        ends = range(1, min(len(parts), len(own) + 1))
        spellings += ["/".join(parts[end:]) for end in ends if parts[:end] == own[-end:]]
    for name in dict.fromkeys(spellings):
        path = PurePosixPath(name)
        if path.parts and not path.is_absolute() and ".." not in path.parts and "\0" not in name:
            yield name


def _match(root, parts):
    """Returns the only path below `root` with these parts, up to case and Unicode form; None if none or several fit."""
    found = []
    for part in parts:
        same = _names(os.path.join(root, *found)).get(_key(part), ())
        if part in same:
            found.append(part)
        elif len(same) == 1:
            found.append(same[0])
        else:
            return None
    return "/".join(found)


def _key(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _names(folder):
    """Lists the names in a folder by their key. Needed only if a file is missing."""
    return _list(folder, _changed(folder))


def _stems(folder):
    """Maps each name without suffix, by its key, to the first file that has it."""
    return _list_stems(folder, _changed(folder))


def _changed(folder):
    try:
        return os.stat(folder).st_mtime_ns
    except (OSError, ValueError):  # ValueError if no folder can have such a name
        return None


# A folder is listed once for all its missing files, and again when it has changed.
@functools.lru_cache(maxsize=64)
def _list(folder, changed):
    names = {}
    for name in sorted(os.listdir(folder)) if changed is not None and os.path.isdir(folder) else ():
        names.setdefault(_key(name), []).append(name)
    return names


@functools.lru_cache(maxsize=64)
def _list_stems(folder, changed):
    return {PurePosixPath(key).stem: same[0] for key, same in reversed(_list(folder, changed).items())}
