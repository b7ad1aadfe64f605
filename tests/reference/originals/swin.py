"""python swin.py CHECKOUT: writes ../swin.npz and ../swin_state_dict.txt.gz with the Swin authors' detectors.

CHECKOUT is github.com/SwinTransformer/Swin-Transformer-Object-Detection, commit c7b20110. It runs these files:
mmdet/models/backbones/swin_transformer.py, mmdet/models/roi_heads/bbox_heads/convfc_bbox_head.py with the loss of
mmdet/models/losses/iou_loss.py, and, for names alone, the FPN, the RPN and the mask head.
"""

import functools
import importlib
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import mmdet2
import timm.layers
import torch
from torch import nn

SIZES = {  # channels, blocks of the third stage, heads of the first, window
    "tiny": (96, 6, 3, 7),
    "small": (96, 18, 3, 7),
    "base": (128, 18, 4, 7),
    "large": (192, 18, 6, 12),
}
TOY = {"embed_dim": 8, "depths": [1, 2, 3, 2], "num_heads": [1, 2, 4, 8]}
WINDOWS = (7, 12)
STDS = [0.05, 0.05, 0.1, 0.1]
GRADIENTS = (
    *("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.0.downsample.reduction.weight"),
    *("layers.1.blocks.1.attn.relative_position_bias_table", "layers.1.downsample.norm.weight", "norm1.bias"),
    *("layers.2.blocks.1.mlp.fc1.weight", "layers.3.blocks.1.attn.proj.weight"),
)
HEAD_GRADIENTS = ("shared_convs.0.conv.weight", "shared_convs.1.bn.weight", "shared_fcs.0.weight", "fc_reg.weight")


class ConvModule(nn.Module):
    """A convolution, then a batch norm and a ReLU if there is a norm_cfg."""

    def __init__(self, *args, conv_cfg=None, norm_cfg=None, act_cfg=None, inplace=None, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(*args, bias=norm_cfg is None, **kwargs)
        if norm_cfg is not None:
            self.bn = nn.BatchNorm2d(args[1])

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Blank(ModuleType):
    """A module in which every name stands for something that is never used."""

    def __getattr__(self, name):
        return MagicMock()


def unchanged(*args, **kwargs):
    """A decorator factory that leaves the function as it is."""
    return lambda function: function


def load(checkout):
    """Returns a function from a module's name to that module of the checkout."""
    package = Path(checkout) / "mmdet"
    for name in ("mmcv.ops.carafe", "mmdet.utils.contextmanagers", "mmdet.models.losses"):
        sys.modules[name] = Blank(name)
    sys.modules["timm.models.layers"] = timm.layers  # its place in the timm of that time
    runner = {"auto_fp16": unchanged, "force_fp32": unchanged, "load_checkpoint": None}
    upsample = {"build_upsample_layer": lambda cfg: nn.ConvTranspose2d(**{k: cfg[k] for k in cfg if k != "type"})}
    parts = {"ConvModule": ConvModule, "Conv2d": nn.Conv2d, "xavier_init": None, "normal_init": None, **upsample}
    mmdet2.add_module("mmcv", "", jit=unchanged, ConfigDict=dict)
    mmdet2.add_module("mmcv.cnn", **parts)
    mmdet2.add_module("mmcv.ops", "", batched_nms=None)
    mmdet2.add_module("mmcv.runner", **runner)
    mmdet2.add_module("mmcv_custom", load_checkpoint=None)
    mmdet2.add_module("mmdet", package)
    mmdet2.add_module("mmdet.utils", "", get_root_logger=None)
    registries = {name: mmdet2.Registry() for name in ("BACKBONES", "NECKS", "HEADS", "LOSSES")}
    mmdet2.add_module("mmdet.models.builder", **registries, build_loss=lambda cfg: None)
    for folder in ("", ".backbones", ".necks", ".dense_heads", ".roi_heads", ".roi_heads.bbox_heads", ".losses"):
        mmdet2.add_module(f"mmdet.models{folder}", package / f"models{folder.replace('.', '/')}")
    mmdet2.add_module("mmdet.models.roi_heads.mask_heads", package / "models/roi_heads/mask_heads")
    # Boxes: the coder and the IoU alone.
    core = Blank("mmdet.core")
    core.__path__ = [str(package / "core")]
    sys.modules["mmdet.core"] = core
    for name in ("", ".coder", ".iou_calculators"):
        mmdet2.add_module(f"mmdet.core.bbox{name}", package / f"core/bbox{name.replace('.', '/')}")
    mmdet2.add_module("mmdet.core.bbox.builder", BBOX_CODERS=mmdet2.Registry())
    mmdet2.add_module("mmdet.core.bbox.iou_calculators.builder", IOU_CALCULATORS=mmdet2.Registry())
    core.bbox_overlaps = importlib.import_module("mmdet.core.bbox.iou_calculators.iou2d_calculator").bbox_overlaps
    coder = importlib.import_module("mmdet.core.bbox.coder.delta_xywh_bbox_coder").DeltaXYWHBBoxCoder
    core.build_bbox_coder = lambda cfg: coder(target_stds=cfg["target_stds"])
    core.build_anchor_generator = lambda cfg: MagicMock(num_base_anchors=[3])
    losses = sys.modules["mmdet.models.losses"]
    losses.accuracy = lambda *args: None
    return lambda name: importlib.import_module(f"mmdet.models.{name}")


def detectors(module):
    """Returns {"DETECTOR.PREFIX": module} of every public detector; the parts that all share only once."""
    swin = module("backbones.swin_transformer").SwinTransformer
    fpn = module("necks.fpn").FPN
    rpn = module("dense_heads.rpn_head").RPNHead
    heads = module("roi_heads.bbox_heads.convfc_bbox_head")
    mask = module("roi_heads.mask_heads.fcn_mask_head").FCNMaskHead
    found = {}
    for name, (channels, blocks, count, window) in SIZES.items():
        sizes = {"embed_dim": channels, "depths": [2, 2, blocks, 2], "num_heads": [count << i for i in range(4)]}
        found[f"{name}.backbone"] = swin(**sizes, window_size=window)
        found[f"{name}.neck"] = fpn([channels << i for i in range(4)], 256, 5)
    for kind, stages in (("cascade", [".0", ".1", ".2"]), ("mask", [""])):
        head = heads.Shared4Conv1FCBBoxHead if stages[0] else heads.Shared2FCBBoxHead
        norm = {"norm_cfg": {"type": "SyncBN"}} if stages[0] else {}
        found[f"{kind}.rpn_head"] = rpn(256)
        for stage in stages:
            found[f"{kind}.roi_head.bbox_head{stage}"] = head(in_channels=256, **norm)
            found[f"{kind}.roi_head.mask_head{stage}"] = mask()
    return found


def run_backbones(module):
    arrays = {}
    for window in WINDOWS:
        backbone = module("backbones.swin_transformer").SwinTransformer(**TOY, window_size=window, drop_path_rate=0.0)
        mmdet2.set_weights(backbone, "backbone")
        levels = backbone(mmdet2.images())
        found = mmdet2.record(levels, {"backbone": backbone}, [f"backbone.{name}" for name in GRADIENTS])
        arrays |= {f"window{window}_{name}": array for name, array in found.items()}
    return arrays


def run_head(module):
    """Runs a box head of two convolutions on 6 RoIs with both kinds of batch statistics, then its GIoU loss."""
    kind = module("roi_heads.bbox_heads.convfc_bbox_head").ConvFCBBoxHead
    sizes = {"num_shared_convs": 2, "num_shared_fcs": 1, "conv_out_channels": 8, "fc_out_channels": 16}
    options = {"reg_decoded_bbox": True, "bbox_coder": {"target_stds": STDS}, "norm_cfg": {"type": "BN"}}
    head = kind(**sizes, in_channels=8, num_classes=3, **options)
    mmdet2.set_weights(head, "roi_head.bbox_head")
    pooled = torch.tensor(mmdet2.DRAWN["parameter"]("pooled.features", (6, 8, 7, 7)) * 4)
    arrays = {}
    for training in (False, True):
        head.train(training)
        logits, deltas = head(pooled)
        arrays |= {
            f"head_logits_{training}": logits.detach().numpy(),
            f"head_deltas_{training}": deltas.detach().numpy(),
        }
    norm = head.shared_convs[1].bn
    arrays |= {"head_mean": norm.running_mean.numpy(), "head_variance": norm.running_var.numpy()}
    rois = torch.tensor([[0, 10, 20, 40 + 5 * i, 60 - 4 * i] for i in range(6)], dtype=torch.float32)
    truth = rois[:, 1:] + torch.tensor([[3, -2, 5, 4]]) * torch.arange(6)[:, None]
    labels = torch.tensor([2, 0, 3, 1, 2, 0])  # 3 is the background
    head.loss_bbox = module("losses.iou_loss").GIoULoss(loss_weight=10.0)
    loss = head.loss(None, deltas, rois, labels, None, truth, torch.ones(6, 4))["loss_bbox"]
    waves = torch.tensor(mmdet2.DRAWN["waves"](tuple(logits.shape)))
    ((logits * waves).sum() + loss).backward()
    arrays |= {"head_rois": rois[:, 1:].numpy(), "head_truth": truth.numpy(), "head_labels": labels.numpy()}
    arrays["head_loss"] = loss.detach().numpy()
    weights = dict(head.named_parameters())
    return arrays | {f"head_gradient_{name}": weights[name].grad.numpy() for name in HEAD_GRADIENTS}


def main():
    module = load(sys.argv[1])
    torch.linspace = functools.partial(torch.linspace, device="cpu")  # the meta device cannot read its numbers
    mmdet2.write_listing(mmdet2.REFERENCE / "swin_state_dict.txt.gz", lambda: detectors(module))
    mmdet2.save(mmdet2.REFERENCE / "swin.npz", run_backbones(module) | run_head(module))


if __name__ == "__main__":
    main()
