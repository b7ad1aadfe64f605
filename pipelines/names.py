"""The image file that an entry of the annotation file means.

`pipelines.coco` asks for the file, `pipelines.images` for a hint where there is none. Annotation tools write names as
their system spells them: with backslashes, percent-encoded, below the image folder's own name; and file systems differ
in whether they tell upper from lower case, and in the Unicode form of accents. A name is corrected only where exactly
one file fits; else a hint says what is there.
"""

import functools
import os
import unicodedata
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from pipelines import files
from pipelines.checks import Rejected, Tally, encodable, show

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_LENGTH = 4096  # Linux's PATH_MAX


def file_name(entry: dict[str, Any], root: str | None, tally: Tally) -> str:
    """The file of an entry of the annotation file's images, relative to the folder `root`, which it does not leave.

    Args:
      root: None: the folder is not looked into, and the name taken as it is.

    Raises:
      Rejected: with the reason.
    """
    name, url = entry.get("file_name"), entry.get("coco_url")
    if name is None and isinstance(url, str):
        name = _name_of_url(url, root)
        tally.count("file_names_from_url")
    if not (isinstance(name, str) and name.strip()):
        others = [
            key for key, value in entry.items() if isinstance(value, str) and value.lower().endswith(IMAGE_SUFFIXES)
        ]
        hint = f"; rename {others[0]!r}, which holds a file's name" if others and others[0] != "file_name" else ""
        raise Rejected("image_malformed", f"no file_name (a string){hint}")
    if "\0" in name or encodable(name) != name:
        raise Rejected("image_malformed", "file_name holds a NUL or half a character, which no file's name can")
    if len(name) > MAX_LENGTH:
        raise Rejected("image_malformed", f"file_name has {len(name):,} characters, more than a path may")
    slashed = PurePosixPath(name.replace("\\", "/"))
    if not slashed.parts:
        raise Rejected("image_malformed", f"file_name {show(name)} names no file")
    if ".." in slashed.parts:
        raise Rejected("image_outside_root", f"file_name {show(name)} leaves the folder through ..")
    if slashed.is_absolute() or slashed.parts[0][1:] == ":":
        inside = _inside(root, slashed) if slashed.is_absolute() else None
        if inside is None:
            detail = f"file_name {show(name)} is absolute, and not inside of --images: write it relative to that folder"
            raise Rejected("image_outside_root", detail)
        tally.count("file_names_relative")
        return inside
    return name if root is None else resolve(root, name, tally)


def resolve(root: str, file_name: str, tally: Tally) -> str:
    """The name, relative to `root`, of the file that `file_name` means; `file_name` itself where there is no other.

    A store (gs://…) is not asked: every question there takes a while.
    """
    if files.is_remote(root) or os.path.lexists(os.path.join(root, file_name)):
        return file_name
    for spelling in _spellings(root, file_name):
        found = _match(root, PurePosixPath(spelling).parts)
        if found is not None:
            tally.count("file_names_corrected")
            return found
    return file_name


def hint(root: str, file_name: str) -> str:
    """What lies below `root` instead of the missing file, to be appended to a message; '' where nothing is like it."""
    if files.is_remote(root):
        return ""
    path = PurePosixPath(unquote(file_name.replace("\\", "/")))
    if path.name in _names(root).get(_key(path.name), ()):
        return f", but {show(path.name)} lies in --images itself: correct file_name, or move the files"
    folder = os.path.join(root, *path.parts[:-1])
    if similar := _stems(folder).get(_key(path.stem)):
        return f", but there is {show(similar)}"
    if len(path.parts) > 1 and not os.path.isdir(os.path.join(root, path.parts[0])):
        return f"; --images has no folder {show(path.parts[0])}"
    return ""


def _name_of_url(url, root):
    """The last folder and the name, as COCO's URLs have them (train2017/000000000009.jpg); without a folder of that
    name, the name alone."""
    parts = PurePosixPath(unquote(urlsplit(url).path)).parts[-2:]
    has_folder = len(parts) == 2 and root is not None and _is_folder(files.join(root, parts[0]))
    return "/".join(parts if has_folder else parts[-1:])


@functools.cache
def _is_folder(path):
    return files.is_folder(path)


def _inside(root, path):
    """An absolute path relative to `root`, if its folder is `root` or below it, wherever links lead."""
    if root is None or files.is_remote(root):
        return None
    folder = PurePosixPath(_real_path(str(path.parent)))
    return str((folder / path.name).relative_to(root)) if folder.is_relative_to(root) else None


@functools.lru_cache(maxsize=1024)
def _real_path(path):
    return os.path.realpath(path)


def _spellings(root, file_name):
    """The name as other systems write it; each is relative and stays inside."""
    slashed = file_name.replace("\\", "/")
    spellings = [file_name, slashed, unquote(slashed), slashed.strip()]
    own = PurePosixPath(root).parts
    for name in list(spellings):
        parts = PurePosixPath(name).parts
        # Relative to a folder above `root`: it starts with the last names of `root`.
        spellings += ["/".join(parts[end:]) for end in range(1, len(parts)) if parts[:end] == own[-end:]]
    for name in dict.fromkeys(spellings):
        path = PurePosixPath(name)
        if path.parts and not path.is_absolute() and ".." not in path.parts and "\0" not in name:
            yield name


def _match(root, parts):
    """The one path below `root` whose parts are these but for case and Unicode form, or None."""
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
    """The names in a folder by their key. Asked for only where a file is missing."""
    return _list(folder, _changed(folder))


def _stems(folder):
    """For each name without its ending, by its key, the first file that has it."""
    return _list_stems(folder, _changed(folder))


def _changed(folder):
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return None


# Listed once for all the missing files of a folder, and again when it has changed.
@functools.lru_cache(maxsize=64)
def _list(folder, changed):
    names = {}
    for name in sorted(os.listdir(folder)) if changed is not None and os.path.isdir(folder) else ():
        names.setdefault(_key(name), []).append(name)
    return names


@functools.lru_cache(maxsize=64)
def _list_stems(folder, changed):
    return {PurePosixPath(key).stem: same[0] for key, same in reversed(_list(folder, changed).items())}
