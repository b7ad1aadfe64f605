"""A picture, and boxes in it, for a network that has learnt nothing: noise, and boxes as large as objects usually are.

Before it: nothing. After it: modes `inference` and `train`. What an untrained network proposes are its anchors, most of
them small; how long RoIs take to pool depends on their size.
"""

import numpy as np
import tensorflow as tf
from PIL import Image

# Of the scale (the root of the area) of what a trained network proposes, pixels of an image whose short side has 800.
MEDIAN_SCALE = 90.0
FAR = 1e6  # pixels


def draw_picture(height, width, seed=0):
    """[H, W, 3] uint8: coarse noise, made smooth, and fine noise on it."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (-(-height // 16), -(-width // 16), 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth + generator.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)


def draw_boxes(count, height, width, seed=0):
    """[n, 4] float32, inside the image: scales and aspects log-normal, centres anywhere."""
    generator = np.random.default_rng(seed)
    usual = MEDIAN_SCALE * min(height, width) / 800
    scale = np.exp(generator.normal(np.log(usual), 0.9, (count, 1)))
    aspect = np.exp(generator.normal(0, 0.5, (count, 1)))
    sides = np.maximum(scale * np.concatenate([aspect**0.5, aspect**-0.5], axis=1), 4)
    limits = np.array([height, width])
    # A box is moved inwards where it can be, and cut where it cannot.
    sides = np.minimum(sides, limits)
    start = np.clip(generator.uniform(0, limits, (count, 2)) - sides / 2, 0, limits - sides)
    return np.concatenate([start, start + sides], axis=1).astype(np.float32)


def propose_usual_boxes(rpn, height, width):
    """Tells an RPN to propose drawn boxes, as many and as valid as those that it finds, which it finds nonetheless."""
    propose = rpn.propose

    def propose_drawn(*arguments):
        found = propose(*arguments)
        boxes = draw_boxes(found.boxes.shape[1], height, width)
        # The smaller of the two is always the drawn one, but must wait for what was found, as a trained network's does.
        return found._replace(boxes=tf.minimum(found.boxes + FAR, boxes))

    rpn.propose = propose_drawn
