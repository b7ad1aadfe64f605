"""python vit.py CHECKOUT: writes ../vit.npz and ../*_vitdet_*_state_dict.txt.gz with the original ViTDet.

CHECKOUT is github.com/facebookresearch/detectron2, commit 02b5c4e2. It builds the configurations in projects/ViTDet,
at toy size to run them and at full size for the names. Needs PyTorch, timm, fvcore, omegaconf and cloudpickle.
"""

import functools
import gzip
import runpy
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import timm  # noqa: F401
import torch
import torch._dynamo  # these look for modules that are replaced below
import torchvision  # noqa: F401

REFERENCE = Path(__file__).resolve().parent.parent
DRAWN = runpy.run_path(str(REFERENCE / "drawn_weights.py"))
# Imported by detectron2, not used here.
ABSENT = (
    *("detectron2._C", "hydra", "hydra.utils", "pkg_resources"),
    *("matplotlib", "matplotlib.backends.backend_agg", "matplotlib.colors", "matplotlib.figure", "matplotlib.pyplot"),
    *("pycocotools", "pycocotools.coco", "pycocotools.cocoeval", "pycocotools.mask"),
)
GRADIENTS = (
    *("net.patch_embed.proj.weight", "net.pos_embed", "net.blocks.0.norm1.weight", "net.blocks.0.attn.qkv.bias"),
    *("net.blocks.0.attn.rel_pos_h", "net.blocks.1.attn.rel_pos_h", "net.blocks.1.attn.rel_pos_w"),
    *("net.blocks.2.attn.proj.weight", "net.blocks.2.attn.rel_pos_w", "net.blocks.3.attn.qkv.weight"),
    *("net.blocks.3.mlp.fc1.weight", "simfp_2.0.weight", "simfp_2.1.bias", "simfp_2.3.weight", "simfp_3.0.weight"),
    *("simfp_2.4.weight", "simfp_3.1.norm.weight", "simfp_4.1.weight", "simfp_5.2.norm.bias"),
)


def configuration(checkout, name):
    """Returns the configuration of a model."""
    for module in ABSENT:
        sys.modules.setdefault(module, MagicMock())
    sys.path.insert(0, str(checkout))
    from detectron2 import model_zoo
    from detectron2.config import LazyConfig

    model_zoo.get_config = lambda path: LazyConfig.load(str(checkout / "configs" / path))
    return LazyConfig.load(str(checkout / f"projects/ViTDet/configs/COCO/{name}.py")).model


def build(model):
    from detectron2.config import instantiate

    return instantiate(model).eval()


def shrink(model):
    """Makes the configuration of a cascade small: 4 blocks on tables for 4 x 4 cells, windows of 3 x 3."""
    net, heads = model.backbone.net, model.roi_heads
    net.update(img_size=64, embed_dim=16, depth=4, num_heads=2, window_size=3, window_block_indexes=[0, 2])
    net.pretrain_img_size = 48
    model.backbone.out_channels = model.proposal_generator.head.in_channels = 8
    heads.num_classes = 5
    for head in heads.box_heads:
        head.update(conv_dims=[8, 8], fc_dims=[16])
        head.input_shape.channels = 8
    for predictor in heads.box_predictors:
        predictor.input_shape.channels = 16
    heads.mask_head.conv_dims = [8, 8, 8]
    heads.mask_head.input_shape.channels = 8
    return model


def write_listing(path, model):
    """Writes the names and shapes of a model at full size."""
    torch.linspace = functools.partial(torch.linspace, device="cpu")  # whose values are read
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build(model).state_dict().items()}
    text = "".join(f"{name}\t{','.join(map(str, shape))}\n" for name, shape in shapes.items())
    with open(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
        packed.write(text.encode())


def last(x):
    """Returns an array with the channels last."""
    return x.detach().movedim(1, -1).numpy()


def run(model):
    """Returns {name: array} of a small model with drawn weights."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.tensor(value) for name, value in DRAWN["state_dict"](shapes).items()})
    arrays = {}
    for size in ((96, 32), (64, 96)):
        images = torch.tensor(DRAWN["images"](*size)).movedim(-1, 1).contiguous()
        arrays["x".join(map(str, size))] = last(model.backbone.net(images)["last_feat"])
    levels = model.backbone(images)
    waves = [torch.tensor(DRAWN["waves"](last(level).shape)).movedim(-1, 1) for level in levels.values()]
    sum((level * wave).sum() for level, wave in zip(levels.values(), waves, strict=True)).backward()
    arrays |= {name: last(level) for name, level in levels.items()}
    gradients = {name: value.grad for name, value in model.backbone.named_parameters()}
    arrays |= {f"gradient_backbone.{name}": gradients[name].numpy() for name in GRADIENTS}
    logits, deltas = model.proposal_generator.rpn_head([levels["p4"], levels["p6"]])
    arrays |= {f"rpn_{name}": last(x) for name, x in zip(("p4", "p6"), logits, strict=True)}
    arrays |= {f"rpn_deltas_{name}": last(x) for name, x in zip(("p4", "p6"), deltas, strict=True)}
    boxes, masks = (torch.tensor(DRAWN["parameter"]("rois", (3, side, side, 8))).movedim(-1, 1) for side in (7, 14))
    heads = model.roi_heads
    arrays["classes"], arrays["deltas"] = heads.box_predictor[1](heads.box_head[1](boxes.contiguous()))
    arrays["masks"] = last(heads.mask_head.layers(masks.contiguous()))
    return {name: np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for name, x in arrays.items()}


def main():
    checkout = Path(sys.argv[1]).resolve()
    cascade = "cascade_mask_rcnn_vitdet_b_100ep"
    np.savez_compressed(REFERENCE / "vit.npz", **run(build(shrink(configuration(checkout, cascade)))))
    for name in (cascade, "cascade_mask_rcnn_vitdet_l_100ep", "mask_rcnn_vitdet_b_100ep"):
        write_listing(REFERENCE / f"{name}_state_dict.txt.gz", configuration(checkout, name))


if __name__ == "__main__":
    main()
