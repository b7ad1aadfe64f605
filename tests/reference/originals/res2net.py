"""python res2net.py CHECKOUT: writes ../res2net.npz and ../res2net_state_dict.txt.gz with the original Res2Net.

CHECKOUT is github.com/VDIGPKU/CBNetV2, commit 7ff88b70. It runs mmdet/models/backbones/res2net.py.
"""

import sys

import mmdet2

TOY = {"depth": 50, "base_channels": 8, "base_width": 3}
GRADIENTS = (
    *("stem.0.weight", "stem.7.weight", "layer1.0.convs.1.weight", "layer1.1.convs.0.weight"),
    *("layer2.0.downsample.1.weight", "layer2.0.conv1.weight", "layer3.3.bns.2.bias", "layer4.0.bn3.weight"),
)


def main():
    module = mmdet2.load(sys.argv[1], "backbones.res2net")
    mmdet2.write_listing(
        mmdet2.REFERENCE / "res2net_state_dict.txt.gz",
        lambda: {"backbone": module.Res2Net(depth=101, scales=4, base_width=26)},
    )
    backbone = module.Res2Net(**TOY)
    backbone.train()  # whose norm_eval keeps batch norms on stored statistics
    mmdet2.set_weights(backbone, "backbone")
    levels = backbone(mmdet2.images())
    wanted = [f"backbone.{name}" for name in GRADIENTS]
    mmdet2.save(mmdet2.REFERENCE / "res2net.npz", mmdet2.record(levels, {"backbone": backbone}, wanted))


if __name__ == "__main__":
    main()
