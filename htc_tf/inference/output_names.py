"""What drawings are called, so that neither another drawing nor one of the pictures is lost.

Before: `inference.inputs` found the pictures. After: `inference.predict_files` and `htc_tf.client` save drawings of them.
"""

import itertools
import os
import re

from htc_tf.errors import UserError

LONGEST = 255  # bytes of a file name, on nearly every file system
LONGEST_LABEL = 40  # characters of a class in a file name


def drawing_names(paths, endings=None):
    """name.png for each picture; where pictures of several folders share a name, the later ones get a number.

    endings: of each, in place of .png.
    """
    names = {}  # stem -> name
    for path, ending in zip(paths, endings or itertools.repeat(".png"), strict=False):
        parts = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
        stems = (shorten(path.stem, part, ending) for part in parts)
        stem = next(stem for stem in stems if stem not in names)
        names[stem] = stem + ending
    return list(names.values())


def cut_out_name(stem, number, class_name):
    """STEM_01_person.png; of a class's name what a file may be called, at most 40 characters."""
    label = re.sub(r"\W+", "_", class_name)[:LONGEST_LABEL]
    end, ending = f"_{number:02d}_{label}", ".png"
    return shorten(stem, end, ending) + ending


def shorten(stem, end, ending):
    """`stem` + `end`, the stem cut where the name with its ending has more bytes than a file name may have."""
    room = LONGEST - len(os.fsencode(end + ending))
    encoded = os.fsencode(stem)
    return (stem if len(encoded) <= room else encoded[:room].decode(errors="ignore")) + end


def refuse_replacing(paths, names, output):
    """Raises UserError where writing output/name, for one of the names, would write into a file of `paths`."""
    inputs = {_identity(path) for path in paths} - {None}
    for name in names:
        if _identity(output / name) in inputs:
            raise UserError(
                f"--output {output}: the drawing {name} would replace an image of --input; name another folder"
            )


def _identity(path):
    """What a file has in common with its links and with nothing else; None where there is no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL byte in the name
        return None
    return status.st_dev, status.st_ino
