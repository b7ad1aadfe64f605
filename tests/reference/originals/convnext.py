"""python convnext.py CHECKOUT: writes ../convnext.npz and ../convnext_state_dict.txt.gz with the original ConvNeXt.

CHECKOUT is github.com/facebookresearch/ConvNeXt, commit 048efcea. Its object_detection/mmdet/models/backbones/
convnext.py runs, and the classifier of models/convnext.py is listed.
"""

import functools
import importlib
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
    """Returns the modules of the detectors' backbone and of the classifier."""
    sys.modules["timm.models.layers"] = timm.layers  # its place in the timm of that time
    mmdet2.add_module("mmcv_custom", load_checkpoint=None)
    detection = Path(checkout) / "object_detection"
    mmdet2.add_module("mmdet", detection / "mmdet")
    mmdet2.add_module("mmdet.utils", get_root_logger=None)
    mmdet2.add_module("mmdet.models", detection / "mmdet/models")
    mmdet2.add_module("mmdet.models.builder", BACKBONES=mmdet2.Registry())
    mmdet2.add_module("mmdet.models.backbones", detection / "mmdet/models/backbones")
    mmdet2.add_module("models", Path(checkout) / "models")
    return (importlib.import_module(name) for name in ("mmdet.models.backbones.convnext", "models.convnext"))


def main():
    detection, classification = load(sys.argv[1])
    torch.linspace = functools.partial(torch.linspace, device="cpu")  # the meta device cannot read its numbers

    def make():
        modules = {}
        for name, (width, blocks) in SIZES.items():
            sizes = {"dims": [width, 2 * width, 4 * width, 8 * width], "depths": [3, 3, blocks, 3]}
            modules[f"{name}.backbone"] = detection.ConvNeXt(**sizes)
            modules[f"{name}.classifier"] = classification.ConvNeXt(**sizes)
        return modules

    mmdet2.write_listing(mmdet2.REFERENCE / "convnext_state_dict.txt.gz", make)
    backbone = detection.ConvNeXt(**TOY)
    mmdet2.set_weights(backbone, "backbone")
    levels = backbone(mmdet2.images())
    wanted = [f"backbone.{name}" for name in GRADIENTS]
    mmdet2.save(mmdet2.REFERENCE / "convnext.npz", mmdet2.record(levels, {"backbone": backbone}, wanted))


if __name__ == "__main__":
    main()
