"""Names, shapes and stand-in weights of a Swin Transformer as its authors and mmdetection lay them out.

Written from the two state dicts' layout, by its configuration, without our tables. swin_toy.npz holds what a plain
PyTorch Swin of TOY's sizes, window by window, made of `images()` with these weights: the outputs of both layouts (the
authors' with output norms that do nothing more), and gradients of `sum(C_l * cos(0.1 * index in C_l))` in
mmdetection's.
"""

import zlib

import numpy as np

TINY = {"channels": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)}
TOY = {"channels": 4, "depths": (1, 2, 3, 2), "heads": (1, 2, 2, 4)}

# What each block's parts are called.
BLOCK = {
    "authors": ("layers", "attn", "mlp.fc1", "mlp.fc2"),
    "mmdet": ("stages", "attn.w_msa", "ffn.layers.0.0", "ffn.layers.1"),
}


def shapes(layout, channels, depths, heads, window=7):
    """{name: shape} of the backbone's weights, PyTorch's [out, in] for matrices."""
    offsets = (2 * window - 1) ** 2  # between two cells of a window
    stages, attention, expand, shrink = BLOCK[layout]
    embed = "patch_embed.proj" if layout == "authors" else "patch_embed.projection"
    found = {f"{embed}.weight": (channels, 3, 4, 4), f"{embed}.bias": (channels,), **norm("patch_embed.norm", channels)}
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        width = channels * 2**stage
        for block in range(depth):
            here = f"{stages}.{stage}.blocks.{block}"
            found |= {**norm(f"{here}.norm1", width), **norm(f"{here}.norm2", width)}
            found |= linear(f"{here}.{attention}.qkv", width, 3 * width)
            found |= linear(f"{here}.{attention}.proj", width, width)
            found[f"{here}.{attention}.relative_position_bias_table"] = (offsets, count)
            found |= {**linear(f"{here}.{expand}", width, 4 * width), **linear(f"{here}.{shrink}", 4 * width, width)}
        if stage < 3:
            found |= norm(f"{stages}.{stage}.downsample.norm", 4 * width)
            found[f"{stages}.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
        if layout == "mmdet":
            found |= norm(f"norm{stage}", width)
    return found


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def state_dict(layout):
    """{name: array} of TOY's sizes, drawn by the names."""
    return {name: parameter(name, shape) for name, shape in shapes(layout, **TOY).items()}


def parameter(name, shape):
    value = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.3 * value
    if len(shape) == 1:
        return 0.3 * value
    if name.endswith("table"):
        return value
    return (value * (1.5 / np.sqrt(np.prod(shape[1:])))).astype(np.float32)


def images():
    return np.random.RandomState(0).standard_normal((2, 64, 96, 3)).astype(np.float32)
