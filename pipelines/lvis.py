"""LVIS's additions to COCO's format, which its evaluation needs; the records do not hold them, but a small file beside.

LVIS is annotated in part: `neg_category_ids` of an image are the classes verified as absent,
`not_exhaustive_category_ids` those of which some objects may lack an annotation; predictions of other classes without
an object are not judged. A class has a `frequency`: r (rare), c (common) or f (frequent). See arXiv:1908.03195.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from htc_tf.data.annotations import as_integer

from .checks import Counters

FILE = "lvis.json"
KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
FREQUENCIES = ("r", "c", "f")


def renumber(images: Sequence[Any], class_ids: Mapping[int, int]) -> None:
    """Gives the images' lists the new category ids, in place; ids without a new one become None."""
    for entry in images:
        for key in KEYS if isinstance(entry, dict) else ():
            if isinstance(entry.get(key), list):
                entry[key] = [class_ids.get(as_integer(category)) for category in entry[key]]


def unite(image: dict[str, Any], other: dict[str, Any]) -> None:
    """Adds the lists of another entry of the same image to those of `image`, in place."""
    for key in KEYS:
        if isinstance(other.get(key), list):
            own = image.get(key) if isinstance(image.get(key), list) else []
            image[key] = [*own, *(category for category in other[key] if category not in own)]


def collect(
    images: Sequence[Any],
    categories: Sequence[Any],
    image_ids: Mapping[int, Any],
    classes: Sequence[dict[str, Any]],
    counters: Counters,
) -> dict[str, Any] | None:
    """Returns the content of `lvis.json`, or None if no image has a list of LVIS's.

    Args:
        images: The images of the annotation file, or of all merged.
        categories: The categories of all annotation files.
        image_ids: The usable images by id.
        classes: The classes, as {"id", "name"}.
        counters: Counters; ids in the lists that are not of a class are left out and counted.
    Returns:
        {"images": [{"id", "neg_category_ids", "not_exhaustive_category_ids"}], "categories": [{"id", "frequency"}]}, in
        the order of the ids. Categories without one of LVIS's frequencies are absent.
    """
    known, rows = {row["id"] for row in classes}, {}
    for entry in images:
        has_lists = isinstance(entry, dict) and any(key in entry for key in KEYS)
        if has_lists and type(entry.get("id")) is int and entry["id"] in image_ids:
            rows[entry["id"]] = {"id": entry["id"]} | {key: _ids(entry.get(key), known, counters) for key in KEYS}
    if not rows:
        return None
    frequencies = {
        entry["name"]: entry["frequency"]
        for entry in categories
        if isinstance(entry, dict) and entry.get("frequency") in FREQUENCIES
    }
    of_classes = [
        {"id": row["id"], "frequency": frequencies[row["name"]]} for row in classes if row["name"] in frequencies
    ]
    return {"images": [rows[key] for key in sorted(rows)], "categories": of_classes}


def _ids(value, known, counters):
    given = value if isinstance(value, list) else [] if value is None else [None]
    ids = [as_integer(category) for category in given]
    kept = sorted(known.intersection(ids))
    counters.count("lvis_ids_dropped", sum(category not in known for category in ids))
    return kept
