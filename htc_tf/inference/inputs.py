"""What to predict on: the files that names, folders, globs and lists of paths stand for.

Before: what a user wrote. After: `inference.image_files` and `inference.video` read the files. No TensorFlow here: a
mistake in a path is told at once.
"""

import glob
from pathlib import Path

from htc_tf.errors import UserError

PICTURES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"}
# Images that are not read: in a folder they are named with the reason, not passed over.
REFUSED = {".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".eps", ".svg", ".dng", ".cr2", ".nef", ".arw", ".dcm"}
VIDEOS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"}
STANDARD_INPUT = "-"


class Unreadable(UserError):
    """A file that is no picture and no video. `reason` is the message without the file's name."""

    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def find_inputs(names, lines=()):
    """The pictures and videos that names stand for, in order, each once.

    Args:
        names: of files, of folders (what lies directly in them and ends as an image or video does), globs (`**`
            reaches into folders), or "-" for `lines`.
        lines: an iterable of paths, one a line, such as standard input. Blank lines are left out; that a file exists is
            not asked here.
    Returns:
        A list of Paths.
    Raises:
        UserError: a name stands for nothing.
    """
    found = {}
    for name in names:
        path = Path(name)
        if name == STANDARD_INPUT:
            matches = [Path(line.strip()) for line in lines if line.strip()]
        elif path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES | REFUSED | VIDEOS)
        elif path.is_file():
            matches = [path]
        else:
            matches = [p for p in map(Path, sorted(glob.glob(name, recursive=True))) if p.is_file()]
        if not matches:
            raise UserError(f"--input {name}: no picture there")
        found.update(dict.fromkeys(matches))
    return list(found)
