"""States of the image files: which have changed since the last run, and evidence on their EXIF orientations.

`pipelines.plan` compares the states in every run, for every listed file. A changed file changes the token of its shard,
which is then written again. Headers are read only of new and changed files.

An EXIF orientation tells how the camera was held. Most annotation tools show the image upright, some as stored. The
annotated size tells which, if height and width differ. A half turn, a mirrored image and a square have the same size
both ways: `decide_exif` follows the majority of the dataset's other images.
"""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import PIL.Image

from htc_tf.data import image_io
from htc_tf.progress import progress_bar

from . import files

# --max_pixels replaces Pillow's own limit; no pixels are decoded here.
PIL.Image.MAX_IMAGE_PIXELS = None
BATCH = 256  # images per task, because starting a task costs as much as reading several headers
THREADS = 16  # each header in a store or on a network disk has a latency
QUARTER_TURNS = (5, 6, 7, 8)

UPRIGHT, STORED, EITHER = "upright", "stored", "either"


class State(NamedTuple):
    """The files of one image; a row of plan/files.json.

    Attributes:
        stamp, stuff_stamp: Results of `files.stamp_reader`.
        evidence: UPRIGHT, STORED or EITHER: how the image has the annotated size. "" without an orientation, or if the
            image has another size both ways.
    """

    file_name: str
    height: int
    width: int
    stuff_name: str | None = None
    stamp: list[int] | None = None
    stuff_stamp: list[int] | None = None
    evidence: str = ""


def new_state(row: dict[str, Any], with_stuff: bool) -> State:
    """Returns the state, without stamps, of an image of `plan.read_lines`."""
    image, stuff_name = row["image"], None
    if with_stuff and "segments" in row:
        stuff_name = (row["segments"] or {}).get("file_name")
    elif with_stuff:
        stuff_name = f"{os.path.splitext(image['file_name'])[0]}.png"  # as `stuff.load_map` has it
    return State(image["file_name"], image["height"], image["width"], stuff_name)


def read_states(root: str, stuff: str | None, listed: Sequence[State], read_headers: bool) -> list[State]:
    """Returns the current states of the files, in order.

    Args:
        root: The image folder.
        stuff: The folder of stuff maps, or None.
        listed: States of the last run, or states without stamps.
        read_headers: If True, look for evidence.
    """
    image_stamp, stuff_stamp = files.stamp_reader(root), files.stamp_reader(stuff) if stuff else None

    def update(old):
        stamp = image_stamp(old.file_name)
        evidence = old.evidence if stamp == old.stamp else ""
        if read_headers and stamp and stamp != old.stamp:
            evidence = _find_evidence(root, old)
        with_map = stuff_stamp and old.stuff_name
        return old._replace(
            stamp=stamp, stuff_stamp=stuff_stamp(old.stuff_name) if with_map else None, evidence=evidence
        )

    batches = [listed[start : start + BATCH] for start in range(0, len(listed), BATCH)]
    states = []
    with ThreadPoolExecutor(THREADS) as pool, progress_bar(total=len(listed), desc="files", unit="image") as bar:
        for batch in pool.map(lambda batch: [update(old) for old in batch], batches):
            states += batch
            bar.update(len(batch))
    return states


def decide_exif(states: Sequence[State]) -> str:
    """Returns "apply" or "ignore", for the orientations that leave the size unchanged."""
    found = Counter(state.evidence for state in states)
    return "ignore" if found[STORED] > found[UPRIGHT] else "apply"


def describe(states: Sequence[State], exif: str) -> str:
    """Returns one line on the EXIF orientations and their evidence; "" if there are none."""
    found = Counter(state.evidence for state in states if state.evidence)
    if not found:
        return ""
    line = f"EXIF orientation: {found[UPRIGHT]} images have their annotated size only upright, "
    line += f"{found[STORED]} only as stored"
    if found[EITHER]:
        rule = "turned upright" if exif == "apply" else "not turned"
        line += f"; the {found[EITHER]} that have it both ways are {rule}"
    if not found[UPRIGHT] and not found[STORED]:
        line += ", as most annotation tools show them; --exif ignore keeps them as stored"
    return line


def changes(before: Sequence[State], now: Sequence[State]) -> list[str]:
    """Returns the names of the images whose file or stuff map is changed, new or removed."""
    return [new.file_name for old, new in zip(before, now, strict=True) if _stamps(old) != _stamps(new)]


def removed(before: Sequence[State], now: Sequence[State]) -> list[str]:
    """Returns the names of the images whose file or stuff map no longer exists."""
    return [
        new.file_name
        for old, new in zip(before, now, strict=True)
        if any(was and not is_now for was, is_now in zip(_stamps(old), _stamps(new), strict=True))
    ]


def _stamps(state):
    return state.stamp, state.stuff_stamp


def _find_evidence(root, state):
    path = files.join(root, state.file_name)
    try:
        # Opening a pipe would block.
        if not files.is_remote(root) and not stat.S_ISREG(os.stat(path).st_mode):
            return ""
        with files.open_to_read(path) as file, PIL.Image.open(file, formats=image_io.FORMATS) as image:
            orientation, size = image_io.orientation(image), image_io.stored_size(image)
    except Exception:  # Pillow raises many kinds of errors on damaged files, which the worker reports
        return ""
    if orientation == 1:
        return ""
    turned = size[::-1] if orientation in QUARTER_TURNS else size
    upright, stored = (turned == (state.width, state.height), size == (state.width, state.height))
    return EITHER if upright and stored else UPRIGHT if upright else STORED if stored else ""
