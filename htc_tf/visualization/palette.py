"""Class colors that stay distinct, for color-blind readers too.

The first colors are Okabe and Ito's seven, with a deeper sky blue, and violet in place of black, which is lost on
images. Each further color is the vivid color farthest from all colors before it; all 1,736 are distinct, and then they
repeat. The distance of two colors is the smallest one that a reader with full, protanopic or deuteranopic sight sees.
Full sight has one more dimension to tell colors apart by, so its distances count half; otherwise it would never decide.
"""

import functools

import numpy as np

FIRST = ("#2f9be6", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#f0e442", "#0072b2", "#9944ee")

# Linear RGB as full, protanopic and deuteranopic sight (severity 1) see it: Machado, Oliveira, Fernandes 2009, table 1.
SIGHTS = np.array(
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)
WEIGHTS = np.array([0.45, 1, 1])
SAME = 1e-6  # the distance of a color to itself, with rounding errors; those of different candidates are 1e-4 and more
# Linear RGB to cone responses, and the cube roots of those to lightness and two hues: OKLab (Ottosson, 2020).
CONES = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
OKLAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])


@functools.cache
def palette(count):
    """Returns the first `count` colors, [count, 3] uint8 RGB. A longer palette begins with the shorter one.

    There are 1,736 colors; from then on they repeat.
    """
    chosen = [np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)]) for name in FIRST[:count]]
    steps = np.arange(0, 256, 17)  # 16 values a channel: 4,096 candidates
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, *hues = _appearance(candidates)[0].T
    chroma = np.hypot(*hues)
    # Visible on a dark image, and neither pale nor garish.
    fit = (lightness > 0.57) & (lightness < 0.91) & (chroma > 0.08) & (chroma < 0.245) & (lightness + chroma < 1.03)
    candidates = candidates[fit]
    seen = _appearance(candidates)  # [sights, candidates, 3]
    nearest = np.full(len(candidates), np.inf)  # each candidate's distance to the nearest chosen color
    for index in range(count):
        if index >= len(chosen):
            farthest = np.argmax(nearest)
            if nearest[farthest] < SAME:
                break
            chosen.append(candidates[farthest])
        distances = np.linalg.norm(seen - _appearance(chosen[index][None]), axis=-1)
        nearest = np.minimum(nearest, (WEIGHTS[:, None] * distances).min(axis=0))
    return np.array(chosen, np.uint8).reshape(-1, 3)[np.arange(count) % max(len(chosen), 1)]


def readable_on(color):
    """Returns the text color, white or nearly black as (r, g, b), that is easier to read on a color."""
    luminance = _linear(np.asarray(color)) @ [0.2126, 0.7152, 0.0722]
    return (255, 255, 255) if luminance < 0.36 else (20, 20, 24)


def _linear(colors):
    """Returns sRGB values of 0 ... 255 as linear RGB of 0 ... 1."""
    values = colors / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _appearance(colors):
    """Returns colors [n, 3] of 0 ... 255 as each sight sees them, [sights, n, 3] in OKLab, a perceptual space."""
    seen = np.clip(np.einsum("sij,nj->sni", SIGHTS, _linear(colors)), 0, 1)
    return np.cbrt(seen @ CONES.T) @ OKLAB.T
