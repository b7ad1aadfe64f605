"""python detectron2.py CHECKOUT: writes ../detectron2.npz and ../detectron2_state_dict.txt.gz with the original code.

CHECKOUT is github.com/facebookresearch/detectron2, commit 02b5c4e2. Its networks run as they are, in inference and in
training; only the random choice of anchors becomes an even one, and all RoIs are taken.
"""

import gzip
import runpy
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

REFERENCE = Path(__file__).resolve().parent.parent
DRAWN = runpy.run_path(str(REFERENCE / "detectron2_weights.py"))
# Packages that configurations and data sets need, and the compiled operations; torchvision's replace those in use.
ABSENT = (
    *("cloudpickle", "hydra", "hydra.errors", "matplotlib", "matplotlib.colors", "matplotlib.pyplot", "omegaconf"),
    *("omegaconf.dictconfig", "pycocotools", "pycocotools.coco", "pycocotools.mask", "detectron2._C"),
)
CONFIGS = {
    "mask_rcnn_r50_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
    "mask_rcnn_r101_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x",
    "mask_rcnn_x101_32x8d_fpn": "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x",
    "cascade_mask_rcnn_r50_fpn": "Misc/cascade_mask_rcnn_R_50_FPN_1x",
}
TOY = {
    **{"RESNETS.DEPTH": 50, "RESNETS.STEM_OUT_CHANNELS": 8, "RESNETS.RES2_OUT_CHANNELS": 32},
    **{"FPN.OUT_CHANNELS": 16, "ROI_BOX_HEAD.FC_DIM": 32, "ROI_MASK_HEAD.CONV_DIM": 16, "ROI_MASK_HEAD.NUM_CONV": 2},
    **{"ROI_HEADS.NUM_CLASSES": DRAWN["CLASSES"], "RPN.POST_NMS_TOPK_TRAIN": 40},
    **{"ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64, "ROI_HEADS.POSITIVE_FRACTION": 1.0},  # all 40 proposals and the objects
}
WIDTHS = {"mask_rcnn_x101_32x8d_fpn": {"RESNETS.NUM_GROUPS": 4, "RESNETS.WIDTH_PER_GROUP": 2}}
GRADIENTS = (
    *(
        "backbone.bottom_up.res3.0.conv2.weight",
        "backbone.bottom_up.res4.2.conv1.weight",
        "backbone.fpn_lateral4.weight",
    ),
    *("backbone.fpn_output2.bias", "proposal_generator.rpn_head.conv.weight", "roi_heads.mask_head.mask_fcn1.weight"),
    *("roi_heads.mask_head.deconv.weight", "roi_heads.box_head.fc2.weight", "roi_heads.box_predictor.bbox_pred.weight"),
    *("roi_heads.box_head.0.fc2.weight", "roi_heads.box_head.2.fc2.weight"),
    *("roi_heads.box_predictor.1.bbox_pred.weight", "roi_heads.box_predictor.2.cls_score.bias"),
)
SOME = 8  # detections of an image whose masks are kept


def load(checkout):
    sys.path[0] = checkout  # instead of this folder, whose file has the package's name
    sys.modules.update({name: mock.MagicMock(__path__=[]) for name in ABSENT})
    for name in ("DictConfig", "ListConfig"):
        setattr(sys.modules["omegaconf"], name, type(name, (), {}))
    import detectron2.modeling.proposal_generator.rpn as rpn
    import detectron2.modeling.roi_heads  # noqa: F401

    def choose(labels, limit, fraction, background):
        positive = torch.nonzero((labels != -1) & (labels != background))[:, 0]
        negative = torch.nonzero(labels == background)[:, 0]
        positive = positive[DRAWN["choose_evenly"](len(positive), int(limit * fraction))]
        return positive, negative[DRAWN["choose_evenly"](len(negative), limit - len(positive))]

    rpn.subsample_labels = choose


def build(name, options):
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_file(f"{sys.argv[1]}/configs/{CONFIGS[name]}.yaml")
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", *(part for key, value in options.items() for part in (f"MODEL.{key}", value))]
    )
    return build_model(cfg)


def write_listing():
    """Writes the names and shapes of the networks at full size."""
    lines = [
        f"{name}\t{key}\t{','.join(map(str, value.shape))}\n"
        for name in CONFIGS
        for key, value in build(name, {}).state_dict().items()
    ]
    path = REFERENCE / "detectron2_state_dict.txt.gz"
    with open(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
        packed.write("".join(lines).encode())


def inputs():
    """Returns the batch, with BGR images and ground truth."""
    from detectron2.structures import BitMasks, Boxes, Instances

    batch = []
    for i, image in enumerate(DRAWN["images"]()):
        truth = Instances(image.shape[:2])
        truth.gt_boxes = Boxes(torch.tensor(DRAWN["boxes"]()[i]))
        truth.gt_classes = torch.tensor(DRAWN["classes"]()[i])
        truth.gt_masks = BitMasks(torch.tensor(DRAWN["bitmaps"]()[i]))
        height, width = DRAWN["ORIGINAL_SIZES"][i]
        bgr = torch.tensor(image[..., ::-1].copy()).permute(2, 0, 1)
        batch.append({"image": bgr, "height": height, "width": width, "instances": truth})
    return batch


def detect(model, batch):
    """Returns {name: array} of the pyramid, the proposals, and the detections before and after pasting."""
    model.eval()
    arrays = {}
    with torch.no_grad():
        images = model.preprocess_image(batch)
        pyramid = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, pyramid, None)
        raw = model.inference(batch, do_postprocess=False)
        final = model.inference(batch)
    arrays |= {level: pyramid[level].permute(0, 2, 3, 1).numpy() for level in ("p3", "p4", "p5", "p6")}
    for i in range(len(batch)):
        arrays[f"proposals_{i}"] = proposals[i].proposal_boxes.tensor.numpy()
        arrays[f"boxes_{i}"] = raw[i].pred_boxes.tensor.numpy()
        arrays[f"scores_{i}"] = raw[i].scores.numpy()
        arrays[f"classes_{i}"] = raw[i].pred_classes.numpy().astype(np.int32)
        arrays[f"masks_{i}"] = raw[i].pred_masks[:SOME, 0].numpy()
        instances = final[i]["instances"]
        arrays[f"final_boxes_{i}"] = instances.pred_boxes.tensor.numpy()
        arrays[f"final_masks_{i}"] = np.packbits(instances.pred_masks[:SOME].numpy(), axis=-1)
    return arrays


def learn(model, batch):
    """Returns {name: array} of the losses and of gradients of their sum."""
    from detectron2.utils.events import EventStorage

    model.train()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    gradients = {f"gradient_{name}": parameters[name].grad.numpy() for name in GRADIENTS if name in parameters}
    return {name: np.float32(value.item()) for name, value in losses.items()} | gradients


def main():
    load(sys.argv[1])
    write_listing()
    arrays = {}
    for name in ("mask_rcnn_r50_fpn", "cascade_mask_rcnn_r50_fpn", "mask_rcnn_x101_32x8d_fpn"):
        model = build(name, {**TOY, "RESNETS.WIDTH_PER_GROUP": 8, **WIDTHS.get(name, {})})
        drawn = DRAWN["state_dict"]({key: tuple(value.shape) for key, value in model.state_dict().items()})
        model.load_state_dict({key: torch.tensor(value) for key, value in drawn.items()})
        found = detect(model, inputs()) | ({} if name in WIDTHS else learn(model, inputs()))
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    np.savez_compressed(REFERENCE / "detectron2.npz", **arrays)


if __name__ == "__main__":
    main()
