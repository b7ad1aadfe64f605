"""python convnext.py CHECKOUT: writes ../convnext.npz, ../convnext_state_dict.txt.gz and ../convnext_rates.txt.gz.

CHECKOUT is github.com/facebookresearch/ConvNeXt, commit 048efcea. The detectors' backbone and optimizer constructor run
(object_detection/mmdet/models/backbones/convnext.py, object_detection/mmcv_custom/
layer_decay_optimizer_constructor.py), and the classifier of models/convnext.py is listed.
"""

import contextlib
import functools
import gzip
import importlib
import io
import sys
from pathlib import Path

import mmdet2
import timm.layers
import torch

TOY = {"dims": [8, 16, 32, 64], "depths": [2, 1, 3, 1]}
SIZES = {  # stem's channels and blocks of the third stage
    "tiny": (96, 9),
    "small": (96, 27),
    "base": (128, 27),
    "large": (192, 27),
    "xlarge": (256, 27),
}
GRADIENTS = (
    *("downsample_layers.0.0.weight", "downsample_layers.2.0.weight", "stages.0.0.dwconv.weight", "norm1.bias"),
    *("stages.0.1.gamma", "stages.1.0.norm.weight", "stages.2.2.pwconv1.weight", "stages.3.0.dwconv.bias"),
)


def load(checkout):
    """Returns the modules of the detectors' backbone, the classifier and the optimizer constructor."""
    sys.modules["timm.models.layers"] = timm.layers  # its place in the timm of that time
    detection = Path(checkout) / "object_detection"
    mmdet2.add_module("mmcv", "")
    constructor = {"OPTIMIZER_BUILDERS": mmdet2.Registry(), "DefaultOptimizerConstructor": object}
    mmdet2.add_module("mmcv.runner", get_dist_info=lambda: (1, 2), **constructor)
    mmdet2.add_module("mmcv_custom", detection / "mmcv_custom", load_checkpoint=None)
    mmdet2.add_module("mmdet", detection / "mmdet")
    mmdet2.add_module("mmdet.utils", get_root_logger=None)
    mmdet2.add_module("mmdet.models", detection / "mmdet/models")
    mmdet2.add_module("mmdet.models.builder", BACKBONES=mmdet2.Registry())
    mmdet2.add_module("mmdet.models.backbones", detection / "mmdet/models/backbones")
    mmdet2.add_module("models", Path(checkout) / "models")
    constructor = "mmcv_custom.layer_decay_optimizer_constructor"
    return map(importlib.import_module, ("mmdet.models.backbones.convnext", "models.convnext", constructor))


def write_rates(path, detection, constructor):
    """Writes multipliers of learning rate and decay of each weight, with a decay rate of 0.7."""
    lines = []
    for size, layers in (("tiny", 6), ("small", 12)):
        with torch.device("meta"):
            network = torch.nn.ModuleDict({"backbone": make(detection, size), "neck": torch.nn.Conv2d(1, 1, 1)})
        builder = constructor.LearningRateDecayOptimizerConstructor()
        builder.paramwise_cfg = {"decay_rate": 0.7, "num_layers": layers}
        builder.base_lr = builder.base_wd = 1.0
        groups = []
        with contextlib.redirect_stdout(io.StringIO()):
            builder.add_params(groups, network)
        for group in groups:
            for name in group["param_names"]:
                lines.append(f"{size}.{name}\t{group['lr']:.6f}\t{group['weight_decay']}\n")
    with open(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
        packed.write("".join(lines).encode())


def make(module, size):
    width, blocks = SIZES[size]
    return module.ConvNeXt(dims=[width, 2 * width, 4 * width, 8 * width], depths=[3, 3, blocks, 3])


def main():
    detection, classification, constructor = load(sys.argv[1])
    torch.linspace = functools.partial(torch.linspace, device="cpu")  # the meta device cannot read its numbers

    def make_all():
        modules = {"backbone": detection, "classifier": classification}
        return {f"{size}.{name}": make(module, size) for size in SIZES for name, module in modules.items()}

    mmdet2.write_listing(mmdet2.REFERENCE / "convnext_state_dict.txt.gz", make_all)
    write_rates(mmdet2.REFERENCE / "convnext_rates.txt.gz", detection, constructor)
    backbone = detection.ConvNeXt(**TOY)
    mmdet2.set_weights(backbone, "backbone")
    levels = backbone(mmdet2.images())
    wanted = [f"backbone.{name}" for name in GRADIENTS]
    mmdet2.save(mmdet2.REFERENCE / "convnext.npz", mmdet2.record(levels, {"backbone": backbone}, wanted))


if __name__ == "__main__":
    main()
