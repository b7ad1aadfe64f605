"""Sizes and inputs of the comparison with SCNet: a pyramid, RoIs, objects and labels, drawn and stored nowhere.

The original and the tests both run this file, so it needs NumPy alone. Boxes are x1, y1, x2, y2 as in PyTorch.
"""

import numpy as np

HEIGHT, WIDTH, IMAGES = 64, 96, 2
CHANNELS, HIDDEN, CLASSES, LABELS = 8, 16, 5, 6
SCALE = 14  # of a RoI on P2; twice as large ones are on P3
OBJECTS, ROIS = 3, 12
POSITIVES = ((4, 3), (5, 2), (3, 4))  # of each stage and image; they come first among its RoIs
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


def damp(name):
    """Returns a factor of a drawn weight: residual blocks and logits stay of order one."""
    return 0.3 if "conv2" in name or "logits" in name else 1.0


def random(seed):
    return np.random.RandomState(seed)


def pyramid():
    """Returns [P2, ..., P6], each [IMAGES, H, W, CHANNELS]."""
    sides = [(-(-HEIGHT // 2**level), -(-WIDTH // 2**level)) for level in range(2, 7)]
    return [random(i).standard_normal((IMAGES, *side, CHANNELS)).astype(np.float32) for i, side in enumerate(sides)]


def boxes(count, seed):
    """Returns boxes [IMAGES, count, 4] of all scales."""
    draw = random(seed)
    sides = np.exp(draw.uniform(np.log(4), np.log(HEIGHT), (IMAGES, count, 2)))
    start = draw.uniform(0, 1, (IMAGES, count, 2)) * ([WIDTH, HEIGHT] - sides)
    return np.concatenate([start, start + sides], axis=-1).astype(np.float32)


def objects():
    """Returns boxes [IMAGES, OBJECTS, 4] and classes [IMAGES, OBJECTS]; a class is in the first image twice."""
    return boxes(OBJECTS, 10), np.array([[1, 4, 1], [0, 2, 3]])


def rois(stage):
    """Returns the boxes [IMAGES, ROIS, 4] that a stage is trained on; most are near the objects of `matches`."""
    own, near = boxes(ROIS, 20 + stage), objects()[0][np.arange(IMAGES)[:, None], matches(stage)]
    return np.where(positive(stage)[..., None], near + 0.1 * (own - near), own)


def matches(stage):
    """Returns the object of each RoI, [IMAGES, ROIS]."""
    return random(30 + stage).randint(0, OBJECTS, (IMAGES, ROIS))


def positive(stage):
    """Returns [IMAGES, ROIS] bool."""
    return np.arange(ROIS) < np.array(POSITIVES[stage])[:, None]


def mask_targets():
    """Returns the masks of the last stage's positives, [IMAGES, ROIS, 28, 28], 0 or 1."""
    return (random(40).uniform(size=(IMAGES, ROIS, 28, 28)) > 0.5).astype(np.float32)


def labels():
    """Returns semantic labels [IMAGES, HEIGHT / 8, WIDTH / 8]; 255 is unknown."""
    drawn = random(50).randint(0, LABELS + 1, (IMAGES, HEIGHT // 8, WIDTH // 8))
    return np.where(drawn == LABELS, 255, drawn)
