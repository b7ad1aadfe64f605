"""python cbnet.py CHECKOUT: writes ../cbnet.npz and ../cbnet_*_state_dict.txt.gz with the original composite backbones.

CHECKOUT is github.com/VDIGPKU/CBNetV2, commit 7ff88b70: mmdet/models/backbones/cbnet.py and swin_transformer.py,
mmdet/models/necks/cbnet_fpn.py. In cbnet.npz, levels 2 ... 5 are those of the second part, 6 ... 9 those of the
first, and `listing` has the names and shapes of the weights.
"""

import functools
import importlib
import sys

import mmdet2
import numpy as np
import timm.layers
import torch

TOYS = {
    "swin": lambda cbnet: make_swin(cbnet, 4, [1, 2, 3, 2], [1, 2, 2, 4], drop_path_rate=0.0),
    "resnet": lambda cbnet: make_resnet(cbnet, 18, 4, (4, 4, 8, 16, 32)),
}
SECOND, LINKS = "backbone.cb_modules.1.", "backbone.cb_linears."
GRADIENTS = {
    "swin": (
        *("backbone.cb_modules.0.patch_embed.proj.weight", "backbone.cb_modules.0.layers.3.blocks.1.mlp.fc2.weight"),
        *(SECOND + "layers.0.blocks.0.attn.qkv.weight", SECOND + "layers.1.downsample.reduction.weight"),
        *(LINKS + "0.1.weight", LINKS + "0.3.bias", LINKS + "2.1.weight"),
    ),
    "resnet": (
        *("backbone.cb_modules.0.conv1.weight", "backbone.cb_modules.0.layer4.1.conv2.weight"),
        *(SECOND + "layer2.0.downsample.0.weight", SECOND + "layer4.0.bn2.weight"),
        *(LINKS + "1.0.0.weight", LINKS + "1.2.1.bias", LINKS + "3.0.1.weight"),
    ),
}


def load(checkout):
    """Returns mmdetection's modules cbnet and cbnet_fpn."""
    mmdet2.load(checkout, "backbones.resnet")
    torch.linspace = functools.partial(torch.linspace, device="cpu")  # Swin reads numbers of it, on the meta device too
    unused = dict.fromkeys(("constant_init", "xavier_init", "load_checkpoint", "get_root_logger"))
    sys.modules["mmcv.cnn"].__dict__.update(unused)
    sys.modules["mmcv.runner"].auto_fp16 = lambda: lambda function: function
    mmdet2.add_module("mmcv_custom", **unused)
    mmdet2.add_module("mmdet.utils", **unused)
    mmdet2.add_module("timm.models.layers", **vars(timm.layers))
    return (importlib.import_module(f"mmdet.models.{name}") for name in ("backbones.cbnet", "necks.cbnet_fpn"))


def make_swin(cbnet, channels, depths, heads, **options):
    return cbnet.CBSwinTransformer(channels, depths=depths, num_heads=heads, **options)


def make_resnet(cbnet, depth, channels, widths):
    sizes = {"depth": depth, "base_channels": channels, "frozen_stages": -1}
    return cbnet.CBResNet(cb_del_stages=1, cb_inplanes=widths, **sizes)


def main():
    cbnet, cbnet_fpn = load(sys.argv[1])

    def with_neck(backbone, channels):
        widths = [channels * 2**stage for stage in range(4)]
        return {"backbone": backbone, "neck": cbnet_fpn.CBFPN(widths, 256, num_outs=5)}

    full = {
        "swin_b": lambda: with_neck(make_swin(cbnet, 128, [2, 2, 18, 2], [4, 8, 16, 32]), 128),
        "resnet50": lambda: with_neck(make_resnet(cbnet, 50, 64, (64, 256, 512, 1024, 2048)), 256),
    }
    for name, make in full.items():
        mmdet2.write_listing(mmdet2.REFERENCE / f"cbnet_{name}_state_dict.txt.gz", make)

    arrays = {}
    for name, make in TOYS.items():
        backbone = make(cbnet)
        mmdet2.set_weights(backbone, "backbone")
        backbone.train()
        assistant, lead = backbone(mmdet2.images())
        found = mmdet2.record([*lead, *assistant], {"backbone": backbone}, GRADIENTS[name])
        arrays |= {f"{name}_{key}": array for key, array in found.items()}
        shapes = {key: ",".join(map(str, value.shape)) for key, value in backbone.state_dict().items()}
        arrays[f"{name}_listing"] = np.array([f"backbone.{key}\t{sides}" for key, sides in shapes.items()])
    mmdet2.save(mmdet2.REFERENCE / "cbnet.npz", arrays)


if __name__ == "__main__":
    main()
