"""Random crowded scenes whose shapes have a class by the ground on which they lie: what context and occlusion ask for.

A circle on stripes and a circle on dots look alike and are of different classes, so a network must see around the shape
to name it; and twice as many shapes as in `pipelines.scenes` hide each other. These are the two things that HTC's
semantic branch and its interleaved masks are made for (arXiv:1901.07518, section 1). Drawn by the functions of
`pipelines.scenes`.
"""

import functools

import numpy as np

from . import scenes
from .scenes import UNLABELED, draw_ground, draw_outline, finish_scene, paint, place_thing
from .surfaces import TEXTURES

OUTLINES = ("circle", "square", "star", "cross")
LINES = ("stripes", "checker", "waves")  # the other textures, dots and noise, are grains
THINGS = tuple(f"{outline} on {ground}" for outline in OUTLINES for ground in ("lines", "grains"))
LABELS = range(len(THINGS))
MAX_THINGS = 14
DIAMETERS = (12, 80)  # range of the circle around a shape, log-uniform


def draw_scene(rng, labels=LABELS):
    """Draws one scene from a NumPy random generator; shapes of a class that `labels` lacks are not painted."""
    canvas, semantic = draw_ground(rng, *rng.integers(scenes.SIDES[0], scenes.SIDES[1] + 1, 2))
    ground, things = semantic.copy(), []

    def choose_label(outline, whole):
        label = name(outline, ground[whole])
        return label if label in labels else None

    for _ in range(rng.integers(4, MAX_THINGS + 1)):
        outline = int(rng.integers(len(OUTLINES)))
        coverage = draw_outline(rng, OUTLINES[outline], float(np.exp(rng.uniform(*np.log(DIAMETERS)))))
        place_thing(rng, canvas, things, functools.partial(choose_label, outline), [(coverage, (0, 0))], paint)
    return finish_scene(rng, canvas, semantic, things)


def name(outline, ground):
    """Returns the label of an outline, by index, on the stuff labels of the ground under it, [n] uint8."""
    counts = np.bincount(ground[ground != UNLABELED] - len(scenes.THINGS), minlength=len(TEXTURES))
    return 2 * outline + int(TEXTURES[np.argmax(counts)] not in LINES)
