"""python hrnet.py CHECKOUT: writes ../hrnet.npz and ../hrnet_w*_state_dict.txt.gz with the original HRNet and HRFPN.

CHECKOUT is github.com/VDIGPKU/CBNetV2, commit 7ff88b70: mmdet/models/backbones/hrnet.py, mmdet/models/necks/hrfpn.py.
"""

import sys

import mmdet2

GRADIENTS = (
    *("backbone.conv1.weight", "backbone.bn2.weight", "backbone.layer1.0.downsample.0.weight"),
    *("backbone.transition1.1.0.0.weight", "backbone.transition3.3.0.0.weight"),
    *("backbone.stage2.0.fuse_layers.0.1.0.weight", "backbone.stage3.1.branches.2.0.conv2.weight"),
    *("backbone.stage4.0.fuse_layers.3.0.1.0.weight", "backbone.stage4.0.fuse_layers.3.0.2.1.bias"),
    *("neck.reduction_conv.conv.weight", "neck.fpn_convs.4.conv.weight", "neck.fpn_convs.0.conv.bias"),
)


def stage(block, modules, blocks, *channels):
    count = len(channels)
    sizes = {"num_branches": count, "num_blocks": (blocks,) * count, "num_channels": channels}
    return {"block": block, "num_modules": modules, **sizes}


def build(hrnet, hrfpn, width, stem, blocks, modules, outputs):
    """Returns {"backbone": HRNet, "neck": HRFPN}; mmdetection's configurations have a stem of 64 channels."""
    widths = [width * 2**branch for branch in range(4)]
    extra = {"stage1": stage("BOTTLENECK", 1, blocks, stem)}
    extra |= {f"stage{n}": stage("BASIC", modules[n - 2], blocks, *widths[:n]) for n in (2, 3, 4)}
    return {"backbone": hrnet.HRNet(extra), "neck": hrfpn.HRFPN(widths, outputs)}


def main():
    hrnet, hrfpn = (mmdet2.load(sys.argv[1], name) for name in ("backbones.hrnet", "necks.hrfpn"))
    for width in (18, 32, 40):
        mmdet2.write_listing(
            mmdet2.REFERENCE / f"hrnet_w{width}_state_dict.txt.gz",
            lambda width=width: build(hrnet, hrfpn, width, 64, 4, (1, 4, 3), 256),
        )
    modules = build(hrnet, hrfpn, 4, 64, 1, (1, 2, 1), 8)
    for prefix, module in modules.items():
        mmdet2.set_weights(module, prefix)
        module.train()  # with norm_eval: batch norms stay on stored statistics
    features = modules["backbone"](mmdet2.images())
    arrays = mmdet2.record(modules["neck"](features), modules, GRADIENTS)
    arrays |= {f"branch{i}": x.detach().permute(0, 2, 3, 1).numpy() for i, x in enumerate(features)}
    mmdet2.save(mmdet2.REFERENCE / "hrnet.npz", arrays)


if __name__ == "__main__":
    main()
