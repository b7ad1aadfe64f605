"""The image files before they are read: whether they have changed since, and which way up the annotators saw them.

Called by `pipelines.plan` in every run, for every file that the annotations list. Files that have changed change their
shard's token, so that a rerun writes the shard again. Headers are read of new and changed files only.

An EXIF orientation says how the camera was held. Most annotation tools show the image upright, some as it is stored.
Where height and width differ, the annotated size says which. A half turn, a mirror image and a square have the same
size both ways; `decide` handles them as most of the data set's other images are annotated.
"""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import PIL.Image
from tqdm import tqdm

from htc_tf.data import image_io
from pipelines import files

# --max_pixels takes the place of Pillow's own limit; no pixel is decoded here.
PIL.Image.MAX_IMAGE_PIXELS = None
BATCH = 256  # images of one task: a task costs as much as some headers
THREADS = 16  # in a store or on a network's disk, each header is an answer to wait for
QUARTER_TURNS = (5, 6, 7, 8)

UPRIGHT, STORED, EITHER = "upright", "stored", "either"


class State(NamedTuple):
    """The files of one image; a row of plan/files.json.

    `stamp` and `stuff_stamp` are those of `files.stamper`. `evidence` says with which reading of its EXIF orientation
    the image has the annotated size: UPRIGHT, STORED or EITHER; "" without an orientation, or with neither reading.
    """

    file_name: str
    height: int
    width: int
    stuff_name: str | None = None
    stamp: list[int] | None = None
    stuff_stamp: list[int] | None = None
    evidence: str = ""


def new_state(row: dict[str, Any], with_stuff: bool) -> State:
    """The state, without stamps, of an image of `plan.read_lines`."""
    image, stuff_name = row["image"], None
    if with_stuff and "segments" in row:
        stuff_name = (row["segments"] or {}).get("file_name")
    elif with_stuff:
        stuff_name = f"{os.path.splitext(image['file_name'])[0]}.png"  # as `stuff.load_map` has it
    return State(image["file_name"], image["height"], image["width"], stuff_name)


def survey(root: str, stuff: str | None, listed: Sequence[State], read_headers: bool) -> list[State]:
    """The states of the files now, in order.

    Args:
      root: the folder that the file names start from; `stuff` likewise for stuff maps, or None.
      listed: the states of the last run, or states without stamps.
      read_headers: look for evidence.
    """
    image_stamp, stuff_stamp = files.stamper(root), files.stamper(stuff) if stuff else None

    def look(old):
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
    with ThreadPoolExecutor(THREADS) as pool, tqdm(total=len(listed), desc="files", unit="image") as bar:
        for batch in pool.map(lambda batch: [look(old) for old in batch], batches):
            states += batch
            bar.update(len(batch))
    return states


def decide(states: Sequence[State]) -> str:
    """Whether the orientations that no size decides are applied: "apply" or "ignore"."""
    found = Counter(state.evidence for state in states)
    return "ignore" if found[STORED] > found[UPRIGHT] else "apply"


def describe(states: Sequence[State], exif: str) -> str:
    """One line on the EXIF orientations and their evidence, for the terminal; "" where there is none."""
    found = Counter(state.evidence for state in states if state.evidence)
    if not found:
        return ""
    said = f"EXIF orientation: {found[UPRIGHT]} images have their annotated size only upright, "
    said += f"{found[STORED]} only as stored"
    if found[EITHER]:
        rule = "turned upright" if exif == "apply" else "not turned"
        said += f"; the {found[EITHER]} that have it both ways are {rule}"
    if not found[UPRIGHT] and not found[STORED]:
        said += ", as most annotation tools show them; --exif ignore keeps them as stored"
    return said


def changes(before: Sequence[State], now: Sequence[State]) -> list[str]:
    """Names of the images whose file or stuff map is another one, or is new or gone."""
    return [new.file_name for old, new in zip(before, now, strict=True) if _stamps(old) != _stamps(new)]


def losses(before: Sequence[State], now: Sequence[State]) -> list[str]:
    """Names of the images whose file or stuff map was there and is gone."""
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
        # A pipe would hold us up.
        if not files.is_remote(root) and not stat.S_ISREG(os.stat(path).st_mode):
            return ""
        with files.open_to_read(path) as file, PIL.Image.open(file, formats=image_io.FORMATS) as image:
            orientation, size = image_io.orientation(image), image_io.stored_size(image)
    except Exception:  # Pillow's readers raise anything on damaged files; the worker that reads the image reports it.
        return ""
    if orientation == 1:
        return ""
    turned = size[::-1] if orientation in QUARTER_TURNS else size
    upright, stored = (turned == (state.width, state.height), size == (state.width, state.height))
    return EITHER if upright and stored else UPRIGHT if upright else STORED if stored else ""
