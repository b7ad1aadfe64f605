"""Paths that match a pattern with `**`, also where links lead to outer folders."""

import glob
import os
import re
from collections.abc import Iterator

SEPARATOR = f"[{re.escape(os.sep + (os.altsep or ''))}]"  # of folders, as a regular expression


def matching(pattern: str) -> set[str]:
    """Returns the paths that match a pattern of `glob`, in which `**` stands for any number of nested folders.

    `**` enters no folder again that it is in. Where two links lead to outer folders, `glob` goes round without end.
    """
    found = re.search(rf"(?:^|(?<={SEPARATOR}))\*\*(?:{SEPARATOR}+|$)", pattern)
    if found is None:
        return set(glob.glob(pattern))
    outer, rest = pattern[: found.start()], pattern[found.end() :] or "*"
    inner = {folder for start in (glob.glob(outer) if outer else [""]) for folder in _nested(start, set())}
    return {path for folder in inner for path in matching(os.path.join(glob.escape(folder), rest))}


def _nested(folder: str, outside: set[tuple[int, int]]) -> Iterator[str]:
    """Yields a folder and the visible ones in it; `outside` has the devices and inodes of those that it is in."""
    try:
        status = os.stat(folder or os.curdir)
        names = os.listdir(folder or os.curdir)
    except OSError:
        return
    identity = (status.st_dev, status.st_ino)
    if identity in outside:
        return
    yield folder
    for name in names:
        path = os.path.join(folder, name)
        if not name.startswith(".") and os.path.isdir(path):
            yield from _nested(path, outside | {identity})
