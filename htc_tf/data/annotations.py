"""COCO annotation files as other tools write them: decoding, and repair of entries that have only one interpretation.

Shared by preparation (`pipelines.coco`) and evaluation, so that both read a file in the same way. Loads no TensorFlow.
Every repair is counted under a name of REPAIRS.
"""

import gzip
import io
import json
import math
import re
import sys
import zlib
from collections import Counter
from typing import Any, BinaryIO

import numpy as np

from htc_tf.data.file_kinds import PACKED
from htc_tf.errors import UserError
from htc_tf.ops.rle_decoding import MAX_PIXELS, decode_counts

REPAIRS = {
    "file_unpacked": "the annotation file is compressed with gzip: read without unpacking it first",
    "file_recoded": "the annotation file starts with a byte order mark, or is UTF-16 or UTF-32: decoded as such",
    "lists_from_dicts": "images, annotations or categories are a dict by id instead of a list",
    "numbers_converted": 'an id or a size is written as "12" or 12.0: read as the integer',
    "polygons_nested": "one polygon is not inside a list of polygons",
    "segmentations_emptied": "a list contains only empty polygons, [[]]: read as no segmentation",
    "run_lengths_unwrapped": "run lengths are in a list of one, or their string is Python's notation of bytes: b'...'",
}
LISTS = ("images", "annotations", "categories")
INTEGERS = {
    "images": ("id", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
    "categories": ("id",),
}
MAX_EXACT_FLOAT = 1 << 53  # below it, every integer is a float64
INTEGER = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
MAX_DIGITS = 30  # of an integer written as a string
# First bytes of files that are not JSON, and what they are.
OTHER_FILES = PACKED | {b"<": "an HTML or XML page, not JSON: download the file itself"}
HEAD = 64  # bytes that tell the encoding and the kind of a file
GZIP = b"\x1f\x8b"
# Limit on the content of a gzip file, so that a small file cannot fill the memory: JSON shrinks 3 to 30 times, and
# gzip's most is 1,032 times.
MAX_RATIO = 100
MIN_UNPACKED, MAX_UNPACKED = 1 << 26, 1 << 33  # bytes; below the first, any ratio is allowed
# Limit on the outline of one object's polygons, in pixels: pycocotools draws outlines at five times the size and takes
# about 100 bytes per pixel.
MAX_OUTLINE = 2_000_000
MAX_SHOWN = 20  # characters of a file that is not JSON, in messages


def load(stream: BinaryIO, name: str, repairs: Counter) -> Any:
    """Decodes JSON in UTF-8, UTF-16 or UTF-32, with or without a byte order mark, also compressed with gzip.

    Args:
        stream: Binary file.
        name: Name of the file, for messages.
        repairs: Counts of repairs; "file_unpacked" is incremented if the file is compressed, "file_recoded" if it is
            not plain UTF-8.
    Raises:
        UserError: The file is not JSON; the message says what it is instead, if its first bytes tell.
    """
    data = stream.read()
    if data.startswith(GZIP):
        data = _unpack(data, name)
        repairs["file_unpacked"] += 1
    if not data.strip(b"\0 \t\r\n"):
        raise UserError(f"{name} contains only blanks or NUL bytes: fetch or export it again")
    head = data[:HEAD].lstrip()
    for start, words in OTHER_FILES.items():
        if head.startswith(start):
            raise UserError(f"{name} is {words}")
    encoding = json.detect_encoding(data[:HEAD])
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}; save it as UTF-8"
        ) from None
    del data  # the text and the parsed content are large enough
    if encoding != "utf-8":
        repairs["file_recoded"] += 1
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{name} {_explain(error, text)}") from None
    except RecursionError:
        raise UserError(f"{name} is nested too deeply to be read as JSON") from None
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{name} is not valid JSON: {error}") from None


def repair(content: dict[str, Any], repairs: Counter) -> None:
    """Repairs, in place, entries that have only one interpretation (see REPAIRS); leaves the others unchanged."""
    for key in LISTS:
        entries = content.get(key)
        if isinstance(entries, dict) and entries and all(isinstance(entry, dict) for entry in entries.values()):
            content[key] = [{"id": name} | entry for name, entry in entries.items()]
            repairs["lists_from_dicts"] += 1
    for key, fields in INTEGERS.items():
        entries = content.get(key)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                _convert_integers(entry, fields, repairs)
                if "segmentation" in entry:
                    entry["segmentation"] = _repair_segmentation(entry["segmentation"], repairs)


def print_repairs(name: str, repairs: Counter) -> None:
    """Prints the repairs of a file with their counts, on standard error."""
    for repaired, count in repairs.items():
        print(f"{name}: {count} repair{'s' * (count > 1)}: {REPAIRS[repaired]}", file=sys.stderr)


def lacks_box(annotation: dict[str, Any]) -> bool:
    """Returns True if the box is absent, empty or all zeros, so that it is computed from the mask."""
    box = annotation.get("bbox")
    if isinstance(box, (tuple, np.ndarray)):  # from Python, not from a file
        box = list(box)
    return box in (None, [], [0, 0, 0, 0])


def as_integer(value: Any) -> int | None:
    """Returns the integer that an int, a whole float, or a string of either represents; None for anything else."""
    if type(value) is int:
        return value
    if type(value) is float and math.isfinite(value) and value.is_integer() and abs(value) < MAX_EXACT_FLOAT:
        return int(value)
    if isinstance(value, str) and len(value) <= MAX_DIGITS and (match := INTEGER.fullmatch(value.strip())):
        return int(match[1])
    return None


def outline_length(polygon: list[float]) -> float:
    """Returns the length of the outline that pycocotools draws: the longer of an edge's two sides, over all edges."""
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    return np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()


def count_pixels(counts: Any) -> int | None:
    """Returns the sum of run lengths, as a list or COCO's compressed string; None if they are invalid."""
    if isinstance(counts, str):
        runs = decode_counts(counts)
        # Longer runs than any image's could add up beyond 64 bits, to the number of pixels of a small one.
        return None if runs is None or (runs < 0).any() or (runs >= MAX_PIXELS).any() else int(runs.sum())
    valid = isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts)
    return sum(counts) if valid else None


def _unpack(data, name):
    """Returns the content of a gzip file, which is no larger than its size makes plausible."""
    limit = min(max(MAX_RATIO * len(data), MIN_UNPACKED), MAX_UNPACKED)
    try:
        with gzip.open(io.BytesIO(data)) as file:
            content = file.read(limit + 1)
    except EOFError:
        raise UserError(f"{name} ends in the middle of its gzip data: fetch or compress it again") from None
    except (OSError, zlib.error) as error:
        raise UserError(f"{name} is damaged gzip data ({error}): fetch or compress it again") from None
    if len(content) > limit:
        raise UserError(f"{name} unpacks to more than {limit:,} bytes: if that is right, unpack it first (gunzip)")
    return content


def _convert_integers(entry, fields, repairs):
    for field in fields:
        value = entry.get(field)
        if type(value) is not int and value is not None:
            number = as_integer(value)
            if number is not None:
                entry[field] = number
                repairs["numbers_converted"] += 1


def _repair_segmentation(segmentation, repairs):
    """Puts one polygon into a list, drops empty polygons, unwraps run lengths, and makes their size integers."""
    if isinstance(segmentation, list) and segmentation:
        first = segmentation[0]
        if first == [] and not any(segmentation):
            repairs["segmentations_emptied"] += 1
            return []
        if type(first) in (int, float) and len(segmentation) >= 6:
            repairs["polygons_nested"] += 1
            return [segmentation]
        if isinstance(first, dict) and len(segmentation) == 1:
            repairs["run_lengths_unwrapped"] += 1
            segmentation = first
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if isinstance(size, list) and any(type(side) is not int for side in size):
            sides = [as_integer(side) for side in size]
            if None not in sides:
                repairs["numbers_converted"] += 1
                segmentation = segmentation | {"size": sides}
        counts = segmentation.get("counts")
        # str() of the bytes that pycocotools encodes; run lengths contain no quotation marks.
        if isinstance(counts, str) and counts[:2] in ("b'", 'b"') and counts[-1] == counts[1]:
            repairs["run_lengths_unwrapped"] += 1
            return segmentation | {"counts": counts[2:-1].replace("\\\\", "\\")}
    return segmentation


def _explain(error, text):
    """Describes a JSON error and its remedy."""
    start = text.lstrip()[:MAX_SHOWN]
    if not start.startswith(("{", "[")):
        # Python's blanks are more than JSON's: the text may hold nothing else.
        return f"is not JSON: it begins with {json.dumps(start or text[:MAX_SHOWN], ensure_ascii=False)}"
    end = len(text.rstrip())
    if error.pos >= end or text[end - 1] not in "}]" or error.msg.startswith("Unterminated string"):
        return "ends in the middle of its JSON: it was cut short; fetch or export it again"
    if error.msg == "Extra data":
        return "contains several JSON values (JSON lines?), not one object as in COCO's files"
    return f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
