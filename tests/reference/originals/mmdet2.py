"""Modules of mmdetection 2 without mmcv: stands in for what its backbones and necks import of mmcv.

For the scripts beside it, which run the original on drawn weights and keep small arrays. They need PyTorch, which is
no requirement of htc_tf, and a checkout of github.com/VDIGPKU/CBNetV2 (commit 7ff88b70), which has mmdetection 2.
"""

import gzip
import importlib
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

REFERENCE = Path(__file__).resolve().parent.parent
DRAWN = runpy.run_path(str(REFERENCE / "drawn_weights.py"))


def make_conv(cfg, *args, **kwargs):
    return nn.Conv2d(*args, **kwargs)


def make_norm(cfg, channels, postfix=""):
    return f"bn{postfix}", nn.BatchNorm2d(channels)


class BaseModule(nn.Module):
    """A module that takes and ignores mmcv's init_cfg."""

    def __init__(self, init_cfg=None):
        super().__init__()


class ConvModule(nn.Module):
    """A convolution with bias, without norm and activation."""

    def __init__(self, *args, conv_cfg=None, norm_cfg=None, act_cfg=None, inplace=None, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(*args, **kwargs)

    def forward(self, x):
        return self.conv(x)


class Registry:
    def register_module(self):
        return lambda kind: kind


def add_module(name, path=None, **content):
    """Adds a module, or a package if it has a path, to those that are imported already."""
    module = ModuleType(name)
    module.__dict__.update(content)
    if path is not None:
        module.__path__ = [str(path)]
    sys.modules[name] = module


def load(checkout, name):
    """Returns a module of mmdet.models, such as "backbones.hrnet", from a checkout."""
    package = Path(checkout) / "mmdet"
    add_module("mmcv", "")
    layers = {"build_conv_layer": make_conv, "build_norm_layer": make_norm, "build_plugin_layer": None}
    add_module("mmcv.cnn", ConvModule=ConvModule, **layers)
    add_module("mmcv.runner", BaseModule=BaseModule, Sequential=nn.Sequential, ModuleList=nn.ModuleList)
    # Packages without their own __init__, which would import the rest of mmdetection.
    for folder in (".", "models", "models/backbones", "models/necks", "models/utils"):
        add_module(".".join(["mmdet", *Path(folder).parts]), package / folder)
    add_module("mmdet.models.builder", BACKBONES=Registry(), NECKS=Registry())
    sys.modules["mmdet.models.utils"].ResLayer = importlib.import_module("mmdet.models.utils.res_layer").ResLayer
    return importlib.import_module(f"mmdet.models.{name}")


def write_listing(path, make):
    """Writes the names and shapes of the modules {prefix: module} that `make` returns, at full size."""
    with torch.device("meta"):
        modules = make()
    lines = [
        f"{prefix}.{name}\t{','.join(map(str, value.shape))}\n"
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    ]
    with open(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
        packed.write("".join(lines).encode())


def set_weights(module, prefix):
    """Sets drawn weights, by the names under which a detector has them; integers stay, counters and constants."""
    state = module.state_dict()
    shapes = {f"{prefix}.{name}": tuple(value.shape) for name, value in state.items() if value.is_floating_point()}
    drawn = DRAWN["state_dict"](shapes)
    state |= {name.removeprefix(f"{prefix}."): torch.tensor(value) for name, value in drawn.items()}
    module.load_state_dict(state)


def images():
    """Returns the drawn images [2, 3, H, W]."""
    return torch.tensor(DRAWN["images"]()).permute(0, 3, 1, 2).contiguous()


def record(levels, modules, wanted):
    """Returns {name: array}: levels as P2, P3, ..., channels last, and gradients of the sum of levels times waves.

    Args:
        levels: Tensors [B, C, H, W].
        modules: {prefix: module}.
        wanted: Names of the weights whose gradients are kept.
    """
    levels = [level.permute(0, 2, 3, 1) for level in levels]
    sum((level * torch.tensor(DRAWN["waves"](tuple(level.shape)))).sum() for level in levels).backward()
    arrays = {f"level{i}": level.detach().numpy() for i, level in enumerate(levels, start=2)}
    for prefix, module in modules.items():
        for name, value in module.named_parameters():
            if f"{prefix}.{name}" in wanted:
                arrays[f"gradient_{prefix}.{name}"] = value.grad.numpy()
    missing = [name for name in wanted if f"gradient_{name}" not in arrays]
    assert not missing, missing
    return arrays


def save(path, arrays):
    np.savez_compressed(path, **arrays)
