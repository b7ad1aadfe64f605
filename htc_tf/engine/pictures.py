"""Prediction on picture files: read, detect, draw, save. What cannot be read is skipped and reported."""

import itertools
import re

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps

from htc_tf.engine.monitor import progress
from htc_tf.engine.results import coco_results
from htc_tf.engine.visualize import draw
from htc_tf.errors import UserError


def predict_pictures(detector, categories, paths, output, threshold):
    """Detects in each picture and saves a drawing of it.

    Args:
        detector: inference.Detector.
        categories: [{"id", "name"}, ...] by class index.
        paths: of the pictures.
        output: folder for the drawings.
        threshold: lowest score that is drawn.
    Returns:
        (results in COCO's format, each also with its file_name; [(path, reason)] of what was skipped)
    Raises:
        UserError: a drawing would replace one of the pictures.
    """
    names = [category["name"] for category in categories]
    ids = [category["id"] for category in categories]
    results, skipped = [], []
    drawings = drawing_names(paths)
    inputs = {path.resolve() for path in paths}
    for name in drawings:
        if (output / name).resolve() in inputs:
            raise UserError(
                f"--output {output}: the drawing {name} would replace a picture of --input; name another folder"
            )
    output.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(progress(paths, unit="img", desc="predict")):
        try:
            image = read_picture(path)
        except (OSError, ValueError, tf.errors.OpError, Image.DecompressionBombError) as error:
            # Of TensorFlow's message the sentence, without the name of the operation before and after it.
            skipped.append((path, re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error)).strip()))
            continue
        found = detector.detect_image(image)
        image_id = id_from_name(path, number)
        results += [{**entry, "file_name": path.name} for entry in coco_results([found], [image_id], ids)]
        picture = draw(image, found.boxes, found.classes, names, found.scores, found.masks, threshold)
        Image.fromarray(picture).save(output / drawings[number])
    return results, skipped


def read_picture(path):
    """-> [H, W, 3] uint8 RGB, turned as its EXIF orientation says.

    TensorFlow decodes it, as in training and in the exported model: other decoders differ by a few grey levels.
    """
    with Image.open(path) as picture:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    upright = Image.fromarray(tf.io.decode_image(path.read_bytes(), 3, expand_animations=False).numpy())
    if orientation is not None:
        upright.getexif()[ExifTags.Base.Orientation] = orientation
    return np.asarray(ImageOps.exif_transpose(upright))


def id_from_name(path, number):
    """COCO's files are named by their image id; any other picture takes its place in the list."""
    return int(path.stem) if re.fullmatch(r"\d+", path.stem) else number


def drawing_names(paths):
    """name.png for each picture; where pictures of several folders share a name, the later ones get a number."""
    names = {}
    for path in paths:
        candidates = itertools.chain([path.stem], (f"{path.stem}_{number}" for number in itertools.count(2)))
        names[next(f"{name}.png" for name in candidates if f"{name}.png" not in names)] = path
    return list(names)
