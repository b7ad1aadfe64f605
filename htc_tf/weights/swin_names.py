"""Swin Transformers of their authors (https://github.com/microsoft/Swin-Transformer): their names and layouts here."""

import os
import re

import numpy as np

from htc_tf.errors import UserError
from htc_tf.weights.files import reading
from htc_tf.weights.tables import swin

BACKBONE = "backbone."  # prefix of a detector's names
SWIN_MARK = "patch_embed.proj.weight"  # in every file
CLASSIFIER = re.compile(r"(head|norm)\.")
RENAMED = (
    ("patch_embed.proj.", "patch_embed.projection."),
    ("layers.", "stages."),
    (".attn.", ".attn.w_msa."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
)


def from_swin(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads the backbone of a Swin classifier of its authors, which has no output norms."""
    if SWIN_MARK not in arrays:
        raise UserError(f"{path} is not a Swin Transformer of its authors: it lacks {SWIN_MARK}")
    with reading(path):
        return rename_swin(arrays), []


def rename_swin(arrays: dict[str, np.ndarray], prefix: str = BACKBONE) -> dict[str, np.ndarray]:
    """Returns {prefix and mmdetection's name: array} of {its authors' name: array}, without a classifier."""
    renamed = {}
    for name, array in arrays.items():
        if CLASSIFIER.match(name) or re.search(swin.CONSTANTS, name):
            continue
        if ".downsample." in name:
            # Their channels of merged patches are (x, y, c), mmdetection's (c, y, x).
            cells = np.reshape(array, (*array.shape[:-1], 2, 2, -1))  # [..., x, y, c]
            array = np.reshape(np.swapaxes(cells, -3, -1), array.shape)
        for theirs, ours in RENAMED:
            # Prefixes match only at the start: "layers." also occurs in mmdetection's "ffn.layers.".
            name = re.sub(rf"^{re.escape(theirs)}", ours, name) if theirs[0] != "." else name.replace(theirs, ours)
        renamed[prefix + name] = array
    return renamed
