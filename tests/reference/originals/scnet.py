"""python scnet.py CHECKOUT: writes ../scnet.npz and ../scnet_state_dict.txt.gz with the original SCNet's RoI head.

CHECKOUT is github.com/VDIGPKU/CBNetV2, commit 7ff88b70. It runs mmdet/models/roi_heads/scnet_roi_head.py and all
its heads, in training on fixed RoIs and in inference. torchvision's RoIAlign stands in for mmcv's.
"""

import importlib
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import mmdet2
import numpy as np
import torch
from torch import nn
from torchvision.ops import roi_align

INPUTS = SimpleNamespace(**runpy.run_path(str(mmdet2.REFERENCE / "scnet_inputs.py")))
GRADIENTS = (
    *("semantic_head.lateral_convs.4.conv.weight", "semantic_head.convs.0.conv1.weight"),
    *("semantic_head.convs.1.conv2.bias", "semantic_head.conv_embedding.conv.weight"),
    *("glbctx_head.convs.0.conv1.weight", "glbctx_head.convs.1.conv2.bias", "glbctx_head.fc.weight"),
    *("bbox_head.0.shared_fcs.0.weight", "bbox_head.2.shared_fcs.1.weight", "bbox_head.1.fc_reg.weight"),
    *("feat_relay_head.fc.weight", "feat_relay_head.fc.bias"),
    *("mask_head.convs.0.conv1.weight", "mask_head.convs.5.conv2.bias", "mask_head.upsample.weight"),
)


class Registry(mmdet2.Registry):
    """Keeps the registered classes, to be built by configurations."""

    def __init__(self):
        self.kinds = {}

    def register_module(self):
        return lambda kind: self.kinds.setdefault(kind.__name__, kind)

    def build(self, config, **more):
        options = dict(config)
        return self.kinds[options.pop("type")](**options, **more)


class ConvModule(mmdet2.ConvModule):
    """A convolution with bias and ReLU."""

    def forward(self, x):
        return self.conv(x).relu().clone()  # the original adds to it in place, which a ReLU's gradient forbids today


class RoIAlign(nn.Module):
    def __init__(self, output_size, spatial_scale, sampling_ratio):
        super().__init__()
        self.output_size, self.options = (output_size, output_size), (spatial_scale, sampling_ratio)

    def forward(self, x, rois):
        return roi_align(x, rois, self.output_size, *self.options, aligned=True)


class FixedSampler:
    """Returns the stage's RoIs of one image after the other."""

    def __init__(self, stage):
        self.stage, self.image = stage, -1

    def assign(self, *_):
        self.image += 1

    def sample(self, _, proposals, objects, classes, feats):
        boxes = torch.tensor(INPUTS.rois(self.stage)[self.image])
        count = INPUTS.POSITIVES[self.stage][self.image]
        matches = torch.tensor(INPUTS.matches(self.stage)[self.image])[:count]
        return SimpleNamespace(
            bboxes=boxes,
            pos_bboxes=boxes[:count],
            neg_bboxes=boxes[count:],
            pos_gt_bboxes=objects[matches],
            pos_gt_labels=classes[matches],
            pos_assigned_gt_inds=matches,
            pos_is_gt=torch.zeros(count, dtype=torch.uint8),
        )


def fixed_mask_targets(*_):
    return torch.tensor(INPUTS.mask_targets()[INPUTS.positive(2)])


def same(*_, **__):
    return lambda function: function


def load(checkout):
    """Returns the registry after all modules of the RoI head are imported."""
    mmdet2.load(checkout, "utils.res_layer")
    models, registry = Path(checkout) / "mmdet/models", Registry()
    kinds = {name: registry for name in ("HEADS", "LOSSES", "ROI_EXTRACTORS", "BBOX_CODERS")}
    builds = {f"build_{name}": registry.build for name in ("head", "roi_extractor", "loss", "bbox_coder")}
    sys.modules["mmcv"].__dict__.update(jit=same)
    upsample = {"build_upsample_layer": lambda config: registry.build(config)}
    registry.kinds |= {"deconv": nn.ConvTranspose2d, "Linear": nn.Linear}
    sys.modules["mmcv.cnn"].__dict__.update(ConvModule=ConvModule, **upsample)
    sys.modules["mmcv.runner"].__dict__.update(auto_fp16=same, force_fp32=same)
    mmdet2.add_module("mmcv.ops", "", RoIAlign=RoIAlign)
    sys.modules["mmcv"].ops = sys.modules["mmcv.ops"]
    mmdet2.add_module("mmcv.ops.carafe", CARAFEPack=None)
    mmdet2.add_module("mmdet.models.builder", **kinds, **builds, build_shared_head=None)
    blocks = sys.modules["mmdet.models.utils.res_layer"]
    linear = {"build_linear_layer": lambda config, **sizes: registry.build(config, **sizes)}
    sys.modules["mmdet.models.utils"].__dict__.update(SimplifiedBasicBlock=blocks.SimplifiedBasicBlock, **linear)
    core = Path(checkout) / "mmdet/core"
    for folder in ("", "bbox", "bbox/coder"):
        mmdet2.add_module(".".join(["mmdet.core", *Path(folder).parts]), core / folder)
    mmdet2.add_module("mmdet.core.bbox.builder", **kinds)
    importlib.import_module("mmdet.core.bbox.coder.delta_xywh_bbox_coder")
    boxes = importlib.import_module("mmdet.core.bbox.transforms")
    unused = ("bbox_mapping", "merge_aug_bboxes", "merge_aug_masks", "multiclass_nms")
    sys.modules["mmdet.core"].__dict__.update(
        **dict.fromkeys(unused),
        bbox2roi=boxes.bbox2roi,
        bbox2result=lambda *_: None,
        build_bbox_coder=registry.build,
        build_assigner=lambda config: config,
        build_sampler=lambda config, context: config,
        multi_apply=lambda function, *lists, **more: zip(
            *(function(*row, **more) for row in zip(*lists, strict=True)), strict=True
        ),
        mask_target=fixed_mask_targets,
    )
    mmdet2.add_module("mmdet.models.losses", models / "losses", accuracy=lambda *_: None)
    for name in ("cross_entropy_loss", "smooth_l1_loss"):
        importlib.import_module(f"mmdet.models.losses.{name}")
    for folder in ("", "bbox_heads", "mask_heads", "roi_extractors"):
        mmdet2.add_module(".".join(["mmdet.models.roi_heads", *Path(folder).parts]), models / "roi_heads" / folder)
    mixins = {"BBoxTestMixin": type("Boxes", (), {}), "MaskTestMixin": type("Masks", (), {})}
    mmdet2.add_module("mmdet.models.roi_heads.test_mixins", **mixins)
    masks = ("scnet_mask_head", "scnet_semantic_head", "global_context_head", "feature_relay_head")
    names = ["bbox_heads.scnet_bbox_head", *(f"mask_heads.{name}" for name in masks)]
    for name in (*names, "roi_extractors.single_level_roi_extractor", "scnet_roi_head"):
        importlib.import_module(f"mmdet.models.roi_heads.{name}")
    return registry


def build(registry, channels, hidden, classes, labels, scale):
    """Returns an SCNetRoIHead of these sizes; all other numbers are those of scnet_r50_fpn_1x_coco."""
    convs = {"in_channels": channels, "conv_out_channels": channels, "conv_to_res": True}

    def extractor(size, *strides):
        layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0}
        kind = {"type": "SingleRoIExtractor", "finest_scale": scale}
        return {**kind, "roi_layer": layer, "out_channels": channels, "featmap_strides": list(strides)}

    def box_head(stds):
        coder = {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": stds}
        sizes = {"in_channels": channels, "fc_out_channels": hidden, "num_classes": classes}
        return {"type": "SCNetBBoxHead", "num_shared_fcs": 2, "reg_class_agnostic": True, "bbox_coder": coder, **sizes}

    stages = [FixedSampler(stage) for stage in range(3)]
    return registry.kinds["SCNetRoIHead"](
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_roi_extractor=extractor(7, 4, 8, 16, 32),
        bbox_head=[box_head(stds) for stds in INPUTS.STDS],
        mask_roi_extractor=extractor(14, 4, 8, 16, 32),
        mask_head={"type": "SCNetMaskHead", "num_convs": 12, "num_classes": classes, **convs},
        semantic_roi_extractor=extractor(14, 8),
        semantic_head={
            **{"type": "SCNetSemanticHead", "num_ins": 5, "fusion_level": 1, "num_convs": 4, "num_classes": labels},
            **{"ignore_label": 255, "loss_weight": 0.2, **convs},
        },
        glbctx_head={"type": "GlobalContextHead", "num_convs": 4, "num_classes": classes, "loss_weight": 3.0, **convs},
        feat_relay_head={"type": "FeatureRelayHead", "in_channels": hidden, "out_conv_channels": channels},
        train_cfg=[SimpleNamespace(assigner=fixed, sampler=fixed, pos_weight=-1) for fixed in stages],
        test_cfg=SimpleNamespace(),
    )


def train(head, pyramid):
    """Returns the losses, and gradients of their sum."""
    boxes, classes = map(torch.tensor, INPUTS.objects())
    labels = torch.tensor(INPUTS.labels())[:, None]
    metas = [{"img_shape": (INPUTS.HEIGHT, INPUTS.WIDTH, 3)}] * INPUTS.IMAGES
    proposals = [None] * INPUTS.IMAGES
    losses = head.forward_train(pyramid, metas, proposals, list(boxes), list(classes), None, None, labels)
    losses = {name: loss.sum() for name, loss in losses.items() if "loss" in name}
    sum(losses.values()).backward()
    arrays = {f"loss_{name}": loss.detach().numpy() for name, loss in losses.items()}
    arrays |= {f"gradient_P{i}": x.grad.permute(0, 2, 3, 1).numpy() for i, x in enumerate(pyramid, start=2)}
    named = dict(head.named_parameters())
    return arrays | {f"gradient_roi_head.{name}": named[name].grad.numpy() for name in GRADIENTS}


def detect(head, pyramid):
    """Returns what inference selects detections from, and masks of the last stage's RoIs as if all were detected."""
    arrays, seen = {}, []

    def get_bboxes(rois, logits, deltas, *_, **__):
        seen.append((rois, logits, deltas))
        return rois[:, 1:], logits[:, :-1].argmax(dim=1)

    def get_seg_masks(masks, boxes, classes, *_):
        arrays.setdefault("masks", []).append(masks[torch.arange(len(masks)), classes].sigmoid().numpy())

    head.bbox_head[-1].get_bboxes, head.mask_head.get_seg_masks = get_bboxes, get_seg_masks
    meta = {"img_shape": (INPUTS.HEIGHT, INPUTS.WIDTH, 3), "ori_shape": None, "scale_factor": 1.0}
    with torch.no_grad():
        semantic, (logits, embedding) = head.semantic_head(pyramid), head.glbctx_head(pyramid)
        head.simple_test(pyramid, list(torch.tensor(INPUTS.boxes(INPUTS.ROIS, 60))), [meta] * INPUTS.IMAGES)
    arrays = {"masks": np.stack(arrays["masks"])}
    for name, values in zip(("rois", "logits", "deltas"), zip(*seen, strict=True), strict=True):
        arrays[name] = torch.stack(values).numpy()
    arrays |= {"semantic_logits": semantic[0].permute(0, 2, 3, 1), "embedding": semantic[1].permute(0, 2, 3, 1)}
    arrays |= {"context_logits": logits, "context": embedding[..., 0, 0]}
    return {name: np.asarray(value) for name, value in arrays.items()}


def main():
    registry = load(sys.argv[1])
    path = mmdet2.REFERENCE / "scnet_state_dict.txt.gz"
    mmdet2.write_listing(path, lambda: {"roi_head": build(registry, 256, 1024, 80, 183, 56)})
    head = build(registry, INPUTS.CHANNELS, INPUTS.HIDDEN, INPUTS.CLASSES, INPUTS.LABELS, INPUTS.SCALE)
    mmdet2.set_weights(head, "roi_head")
    for name, value in head.named_parameters():
        value.data *= INPUTS.damp(name)
    pyramid = [torch.tensor(x).permute(0, 3, 1, 2).contiguous().requires_grad_() for x in INPUTS.pyramid()]
    arrays = train(head, pyramid) | detect(head, [x.detach() for x in pyramid])
    mmdet2.save(mmdet2.REFERENCE / "scnet.npz", arrays)


if __name__ == "__main__":
    main()
