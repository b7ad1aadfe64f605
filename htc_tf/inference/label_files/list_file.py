"""Files of label writers: texts of many items that are complete even after an interruption, and small ones at once."""

import uuid
from collections.abc import Iterable
from pathlib import Path

from htc_tf.errors import UserError


class ListFile:
    """A text file that consists of a start, items, and an end, which `close` writes."""

    def __init__(self, path: Path, start: str, end: str, separator: str = ",\n") -> None:
        """
        Args:
            path: Path of the file; its folder is created if necessary.
            start, end: Strings around the items.
            separator: String between two items.
        Raises:
            UserError: It cannot be written.
        """
        self.end, self.separator, self.before = end, separator, start
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("w", encoding="utf-8")
        except OSError as error:
            folder = path.parent
            raise UserError(f"--output {folder} cannot be written ({error.strerror}): name another folder") from error

    def write(self, items: Iterable[str]) -> None:
        """Appends strings."""
        try:
            for item in items:
                self.file.write(self.before + item)
                self.before = self.separator
        except OSError as error:
            raise UserError(f"{self.file.name} cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Writes the end."""
        if self.before != self.separator:
            self.write([""])  # the start alone
        self.before = ""
        with self.file:
            self.write([self.end])


def replace_file(path: Path, text: str) -> None:
    """Writes a text file as a whole or, if it is interrupted, not at all; its folder is created if necessary.

    It does not wait for the disk, unlike `run.write_whole`: there may be a file for each image.
    """
    unfinished = path.with_name(f".{uuid.uuid4().hex}")  # no other file's name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from error
