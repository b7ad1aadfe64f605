"""python detectors.py CHECKOUT MMCV: writes ../detectors_*.npz and their state_dict.txt.gz with the original DetectoRS.

CHECKOUT is github.com/VDIGPKU/CBNetV2, commit 7ff88b70: mmdet/models/backbones/detectors_resnet.py and
mmdet/models/necks/rfp.py. MMCV is github.com/open-mmlab/mmcv, commit a8073c74: mmcv/ops/saconv.py and
mmcv/cnn/bricks/conv_ws.py. torchvision's deformable convolution stands in for mmcv's.
"""

import importlib
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import mmdet2
import numpy as np
import torch
from torch import nn
from torchvision.ops import deform_conv2d

DRAWN = runpy.run_path(str(mmdet2.REFERENCE / "detectors_weights.py"))
SAC = {"sac": {"type": "SAC", "use_deform": True}, "stage_with_sac": (False, True, True, True)}
AWS = {"conv_cfg": {"type": "ConvAWS"}, "frozen_stages": 1, "norm_eval": True, "style": "pytorch"}
CASES = {"sac": (SAC, False), "rfp": ({}, True), "both": (SAC, True)}  # options of the backbones, recursion
TOY = {"width": 8, "channels": 16, "pooled": 4, "blocks": DRAWN["BLOCKS"]}
GRADIENTS = {
    "sac": (
        *("layer2.0.conv2.weight", "layer2.0.conv2.weight_diff", "layer2.1.conv2.pre_context.weight"),
        *("layer3.0.conv2.switch.weight", "layer3.1.conv2.switch.bias", "layer3.0.conv2.offset_s.bias"),
        *("layer4.0.conv2.offset_l.bias", "layer4.1.conv2.offset_s.weight", "layer4.0.conv2.post_context.weight"),
        *("layer2.0.downsample.0.weight", "layer3.0.conv1.weight", "layer2.0.bn2.weight"),
    ),
    "rfp": (
        *("layer2.0.conv2.weight", "rfp_modules.0.layer2.0.rfp_conv.weight", "rfp_modules.0.layer4.0.rfp_conv.bias"),
        *("rfp_modules.0.layer3.1.conv1.weight", "rfp_aspp.aspp.0.weight", "rfp_aspp.aspp.1.weight"),
        *("rfp_aspp.aspp.2.weight", "rfp_aspp.aspp.3.weight", "rfp_aspp.aspp.3.bias", "rfp_weight.weight"),
        *("rfp_weight.bias", "lateral_convs.1.conv.weight"),
    ),
    "both": (
        *("layer2.0.conv2.weight", "rfp_modules.0.layer3.0.conv2.weight_diff", "rfp_aspp.aspp.1.weight"),
        *("rfp_modules.0.layer2.0.rfp_conv.weight", "rfp_modules.0.layer4.0.conv2.offset_l.bias"),
    ),
}


def load_mmcv(mmcv):
    """Returns {name of a build_conv_layer type: class} from mmcv's sources."""

    class Registry:
        def register_module(self, name=None):
            return lambda kind: kind

    def read(path, name):
        spec = importlib.util.spec_from_file_location(name, Path(mmcv) / path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def deform(x, offset, weight, stride, padding, dilation, groups, deform_groups):
        return deform_conv2d(x, offset, weight, None, stride, padding, dilation)

    mmdet2.add_module("mmengine", "")
    mmdet2.add_module("mmengine.registry", MODELS=Registry())
    mmdet2.add_module("mmengine.model", constant_init=constant_init)
    mmdet2.add_module("mmengine.utils", "", digit_version=lambda text: tuple(map(int, text.split(".")[:2])))
    mmdet2.add_module("mmengine.utils.dl_utils", TORCH_VERSION=torch.__version__)
    mmdet2.add_module("mmcv", "")
    mmdet2.add_module("mmcv.ops", "")
    mmdet2.add_module("mmcv.ops.deform_conv", deform_conv2d=deform)
    standardized = read("mmcv/cnn/bricks/conv_ws.py", "mmcv.cnn.bricks.conv_ws").ConvAWS2d
    mmdet2.add_module("mmcv.cnn", ConvAWS2d=standardized)
    return {"ConvAWS": standardized, "SAC": read("mmcv/ops/saconv.py", "mmcv.ops.saconv").SAConv2d}


def constant_init(module, val, bias=0):
    nn.init.constant_(module.weight, val)
    nn.init.constant_(module.bias, bias)


def load(checkout, mmcv):
    """Returns the originals DetectoRS_ResNet and RFP."""
    kinds = load_mmcv(mmcv)

    def make_conv(cfg, *args, **kwargs):
        options = dict(cfg or {})
        return kinds.get(options.pop("type", None), nn.Conv2d)(*args, **options, **kwargs)

    mmdet2.make_conv = make_conv
    mmdet2.load(checkout, "backbones.resnet")
    unused = dict.fromkeys(("constant_init", "kaiming_init", "xavier_init", "load_checkpoint", "get_root_logger"))
    sys.modules["mmcv.cnn"].__dict__.update(unused)
    sys.modules["mmcv.runner"].__dict__.update(unused, auto_fp16=lambda: lambda function: function)
    mmdet2.add_module("mmdet.utils", **unused)
    backbone = importlib.import_module("mmdet.models.backbones.detectors_resnet").DetectoRS_ResNet

    def build_backbone(cfg):
        return backbone(**cfg)

    sys.modules["mmdet.models.builder"].build_backbone = build_backbone
    return backbone, importlib.import_module("mmdet.models.necks.rfp").RFP


def build(originals, case, width=64, channels=256, pooled=64, blocks=(3, 4, 6, 3)):
    """Returns {"backbone": ..., "neck": ...} of a case; sizes are mmdetection's unless they are given."""
    backbone, neck = originals
    options, recursive = CASES[case]
    sizes = {"depth": 50, "base_channels": width, **AWS, **options}
    block, _ = backbone.arch_settings[50]
    backbone.arch_settings = {**backbone.arch_settings, 50: (block, blocks)}
    modules = {"backbone": backbone(output_img=recursive, **sizes)}
    if recursive:
        second = {**sizes, "rfp_inplanes": 4 * pooled}
        widths = [4 * width * 2**level for level in range(4)]
        modules["neck"] = neck(2, second, pooled, in_channels=widths, out_channels=channels, num_outs=5)
    return modules


def set_weights(modules):
    shapes = {
        f"{prefix}.{name}": tuple(value.shape)
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }
    drawn = DRAWN["state_dict"](shapes)
    for prefix, module in modules.items():
        own = {name: torch.tensor(drawn[f"{prefix}.{name}"]) for name in module.state_dict()}
        module.load_state_dict(own)
        module.train()  # with norm_eval: batch norms stay on stored statistics


def run(modules, case):
    """Returns the arrays of a case."""
    set_weights(modules)
    levels = modules["backbone"](torch.tensor(DRAWN["images"]()).permute(0, 3, 1, 2).contiguous())
    if "neck" in modules:
        levels = modules["neck"](levels)
    names = {f"backbone.{name}" if re.match(r"layer", name) else f"neck.{name}" for name in GRADIENTS[case]}
    return mmdet2.record(levels, modules, names)


def load_classifier(backbone):
    """Returns the statistics that the original derives from kernels without them, as in ImageNet's files."""
    drawn = DRAWN["state_dict"]({f"backbone.{n}": tuple(v.shape) for n, v in backbone.state_dict().items()})
    added = re.compile(r"weight_(gamma|beta|diff)|switch|context|offset")
    state = {name.removeprefix("backbone."): torch.tensor(value) for name, value in drawn.items()}
    backbone.load_state_dict({name: v for name, v in state.items() if not added.search(name)}, strict=False)
    names = ("conv1", "layer1.0.downsample.0", "layer2.0.conv2", "layer4.1.conv3")
    leaves = [f"{name}.{leaf}" for name in names for leaf in ("weight_gamma", "weight_beta")]
    return {f"classifier_backbone.{name}": backbone.state_dict()[name].numpy() for name in leaves}


def convolve():
    """Returns a deformable convolution of dilation 3: its arguments, value and gradients, channels first."""
    torch.manual_seed(0)
    arguments = {
        "x": torch.randn(2, 4, 7, 9),
        "offsets": 2 * torch.randn(2, 18, 4, 5),
        "kernel": torch.randn(6, 4, 3, 3),
    }
    for tensor in arguments.values():
        tensor.requires_grad_()
    value = deform_conv2d(*arguments.values(), None, 2, 3, 3)
    upstream = torch.randn_like(value)
    value.backward(upstream)
    arrays = {**arguments, "value": value, "upstream": upstream}
    arrays |= {f"{name}_gradient": tensor.grad for name, tensor in arguments.items()}
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


def main():
    originals = load(*sys.argv[1:])
    np.savez_compressed(mmdet2.REFERENCE / "op_deform_conv.npz", **convolve())
    arrays = {}
    for case in CASES:
        path = mmdet2.REFERENCE / f"detectors_{case}_state_dict.txt.gz"
        mmdet2.write_listing(path, lambda case=case: build(originals, case))
        modules = build(originals, case, **TOY)
        arrays |= {f"{case}_{name}": array for name, array in run(modules, case).items()}
    arrays |= load_classifier(build(originals, "sac", **TOY)["backbone"])
    mmdet2.save(mmdet2.REFERENCE / "detectors.npz", arrays)


if __name__ == "__main__":
    main()
