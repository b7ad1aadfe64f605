"""Annotation files as JSON, XML or text: encodings are recognized, and the reason is named if one cannot be read."""

import codecs
import functools
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from htc_tf.data import annotations
from htc_tf.errors import UserError

from ..checks import Rejected

MAX_BYTES = 1 << 31  # of a file; parsed, it takes several times as much memory
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # byte order marks other than UTF-8's


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        Rejected: The file cannot be read. So do the other functions.
    """
    try:
        return annotations.load(io.BytesIO(_read(path)), "it", Counter())
    except UserError as error:
        raise Rejected("file_malformed", str(error)) from None


def read_text(path: Path) -> str:
    """Returns the content of a file in UTF-8, or in UTF-16 with a byte order mark."""
    data = _read(path)
    try:
        return data.decode(MARKS.get(data[:2], "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Rejected(
            "file_malformed", f"it is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}"
        ) from None


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file, stripped. The file belongs to several others, so an error names it."""
    try:
        return [line.strip() for line in read_text(path).splitlines()]
    except Rejected as error:
        raise Rejected(error.reason, f"{path}: {error.detail}") from None


def read_xml(path: Path) -> ElementTree.Element:
    """Returns the root element of an XML file, which declares no entities."""
    text = read_text(path)
    # Entities can name other files, and grow without bound. Only a document type declares them.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise Rejected("file_malformed", "it has a document type (<!DOCTYPE ...>), which may declare entities")
    if "\0" in text:  # the parser would take it for UTF-16, in which the search above finds nothing
        raise Rejected("file_malformed", "it is not XML in UTF-8, nor in UTF-16 with a byte order mark")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise Rejected("file_malformed", f"it is not XML: {error}") from None


def cached(maxsize: int) -> Callable[[Callable], Callable]:
    """Returns a decorator like `functools.lru_cache`, which also remembers that a function raised Rejected.

    Otherwise a damaged file that all others need, such as data.yaml, would be read again for each of them.
    """

    def decorate(function):
        @functools.lru_cache(maxsize)
        def try_once(*args):
            try:
                return function(*args), None
            except Rejected as error:
                return None, (error.reason, error.detail)

        @functools.wraps(function)
        def call(*args):
            result, rejected = try_once(*args)
            if rejected:
                raise Rejected(*rejected)
            return result

        return call

    return decorate


def _read(path):
    try:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # opening a pipe would block
            raise Rejected("file_malformed", "it is a pipe or a device, not a file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise Rejected("file_malformed", f"it has more than {MAX_BYTES:,} bytes")
            return file.read(MAX_BYTES)
    except OSError as error:
        raise Rejected("file_malformed", error.strerror or str(error)) from None
