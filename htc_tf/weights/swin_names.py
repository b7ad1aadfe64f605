"""What mmdetection calls the layers of a Swin Transformer, and what the ImageNet weights of its authors call them.

The rows belong to the table of `names`; `from_authors` is a step of `versions`. Sources: mmdetection's SwinTransformer,
and https://github.com/microsoft/Swin-Transformer. The two order the 2 x 2 cells differently that a patch merging puts
side by side: mmdetection (c, y, x), the authors (x, y, c), our variables (y, x, c).
"""

import re

import numpy as np

from htc_tf.weights.layouts import KERNEL, MATRIX, VECTOR, Layout


def cells_first(a):
    """[(c y x), ...] -> [(y x c), ...]"""
    return np.reshape(np.moveaxis(np.reshape(a, (-1, 4, *a.shape[1:])), 0, 1), a.shape)


def cells_last(a):
    """The inverse of `cells_first`."""
    return np.reshape(np.moveaxis(np.reshape(a, (4, -1, *a.shape[1:])), 0, 1), a.shape)


MERGED_VECTOR = Layout(lambda a, model: cells_first(a), lambda a, model: cells_last(a))
MERGED_MATRIX = Layout(lambda a, model: cells_first(a.T), lambda a, model: cells_last(a).T)
TABLE = Layout(lambda a, model: a, lambda a, model: a)

# As in `names`: our variable, mmdetection's name and layout; the Paddle port has no Swin.
PATCHES = (("kernel", ("weight", KERNEL), None), ("bias", ("bias", VECTOR), None))
LINEAR = (("kernel", ("weight", MATRIX), None), ("bias", ("bias", VECTOR), None))
NORM = (("gamma", ("weight", VECTOR), None), ("beta", ("bias", VECTOR), None))
MERGED_LINEAR = (("kernel", ("weight", MERGED_MATRIX), None),)
MERGED_NORM = (("gamma", ("weight", MERGED_VECTOR), None), ("beta", ("bias", MERGED_VECTOR), None))
POSITIONS = (("relative_position_bias", ("relative_position_bias_table", TABLE), None),)

# fmt: off
SWIN_LAYERS = (
    (("backbone", "backbone", "backbone"), (
        ("embed",                "patch_embed.projection", None, PATCHES),
        ("embed_norm",           "patch_embed.norm",       None, NORM),
        ("norms.{s}",            "norm{s}",                None, NORM),
    )),
    (("backbone.blocks.{s}.{b}", "backbone.stages.{s}.blocks.{b}", "backbone"), (
        ("norm1",                "norm1",                  None, NORM),
        ("attention",            "attn.w_msa",             None, POSITIONS),
        ("attention.qkv",        "attn.w_msa.qkv",         None, LINEAR),
        ("attention.projection", "attn.w_msa.proj",        None, LINEAR),
        ("norm2",                "norm2",                  None, NORM),
        ("expand",               "ffn.layers.0.0",         None, LINEAR),
        ("shrink",               "ffn.layers.1",           None, LINEAR),
    )),
    (("backbone.mergings.{s}", "backbone.stages.{s}.downsample", "backbone"), (
        ("norm",                 "norm",                   None, MERGED_NORM),
        ("reduction",            "reduction",              None, MERGED_LINEAR),
    )),
)
# fmt: on

MARK = "patch_embed.proj.weight"  # is in every file of the authors'
CLASSIFIER = re.compile(r"(head|norm)\.")
# Follows from the sizes, and is kept in the files all the same.
CONSTANTS = r"(relative_position_index|attn_mask)$"
# The authors' classifiers have none, and mmdetection starts detectors with new ones.
OUTPUT_NORMS = r"^backbone\.norm\d\."
RENAMED = (
    ("patch_embed.proj.", "patch_embed.projection."),
    ("layers.", "stages."),
    (".attn.", ".attn.w_msa."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
)


def from_authors(arrays):
    """{the authors' name: array} of a classifier -> {mmdetection's name: array} of its backbone."""
    renamed = {}
    for name, array in arrays.items():
        if CLASSIFIER.match(name) or re.search(CONSTANTS, name):
            continue
        if ".downsample." in name:
            cells = np.reshape(array, (*array.shape[:-1], 2, 2, -1))
            array = np.reshape(np.swapaxes(cells, -3, -1), array.shape)
        for theirs, ours in RENAMED:
            # At the start alone: "stages" would be found in no other place, "ffn.layers" would.
            name = re.sub(rf"^{re.escape(theirs)}", ours, name) if theirs[0] != "." else name.replace(theirs, ours)
        renamed[f"backbone.{name}"] = array
    return renamed
