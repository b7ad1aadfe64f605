"""Public weights by name: the file of each, its hash, addresses, gin files, published AP and license.

AP are those on COCO val2017 of mmdetection's configs/*/metafile.yml and of PaddleDetection's page of HTC. The SHA-256
of a file of mmdetection, open-mmlab or torchvision begins with the last eight digits of its name. The hash of Swin-T is
that of OpenVINO's open_model_zoo, which also keeps a copy; none is published for the others.
"""

import difflib
from pathlib import Path
from typing import NamedTuple

from htc_tf.errors import UserError
from htc_tf.weights.other_files import check_path

# Hosts that serve the same paths: mmdetection's documented one, which has failed for weeks at a time, and the storage
# behind it.
OPENMMLAB = (
    "https://download.openmmlab.com",
    "https://openmmlab.oss-accelerate.aliyuncs.com",
    "https://openmmlab.oss-cn-hangzhou.aliyuncs.com",
)
TORCHVISION = "https://download.pytorch.org/models"
OPENVINO = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1"
SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
PADDLE = "https://bj.bcebos.com/v1/paddledet/models"


class PublicWeights(NamedTuple):
    """A public checkpoint file."""

    name: str
    source: str  # "mmdet", "paddle", "torchvision" or "swin"
    file: str
    digest: str | None  # first digits of its SHA-256, or "sha384:..." as pooch writes it; None where none is published
    gin_files: tuple  # of its model; () for a backbone
    addresses: tuple  # in the order in which they are tried
    box_ap: float | None = None
    mask_ap: float | None = None
    license: str | None = None  # of the project that publishes the file; None where it states none

    @property
    def is_backbone(self):
        """True for the classifier of a backbone, False for a detector."""
        return not self.gin_files


def of_mmdet(folder, name, date, digits, gin_file, box_ap, mask_ap=None):
    """Returns a detector of mmdetection 2, whose names and paths follow a rule."""
    file = f"{name}_{date}-{digits}.pth"
    addresses = tuple(f"{host}/mmdetection/v2.0/{folder}/{name}/{file}" for host in OPENMMLAB)
    return PublicWeights(name, "mmdet", file, digits, (gin_file,), addresses, box_ap, mask_ap, "Apache-2.0")


def of_torchvision(name, digits):
    """Returns an ImageNet classifier of torchvision, with the first published weights (V1)."""
    file = f"{name}-{digits}.pth"
    addresses = (f"{TORCHVISION}/{file}",)
    return PublicWeights(name, "torchvision", file, digits, (), addresses, license="BSD-3-Clause")


def of_openmmlab(name, digits):
    """Returns an ImageNet classifier of open-mmlab's collection, under torchvision's names."""
    file = f"{name}-{digits}.pth"
    addresses = tuple(f"{host}/pretrain/third_party/{file}" for host in OPENMMLAB)
    return PublicWeights(name, "torchvision", file, digits, (), addresses)


def of_swin(name, digest=None, copies=()):
    """Returns an ImageNet-1K classifier of Swin's authors."""
    file = f"{name}.pth"
    return PublicWeights(name, "swin", file, digest, (), (f"{SWIN}/{file}", *copies), license="MIT")


# fmt: off
_ALL = (
    of_mmdet("htc", "htc_r50_fpn_1x_coco", 20200317, "7332cf16", "gin/htc_r50_fpn_1x_coco.gin", 42.3, 37.4),
    of_mmdet("htc", "htc_r50_fpn_20e_coco", 20200319, "fe28c577", "gin/htc_r50_fpn_20e_coco.gin", 43.3, 38.3),
    of_mmdet("htc", "htc_r101_fpn_20e_coco", 20200317, "9b41b48f", "gin/htc_r101_fpn_20e_coco.gin", 44.8, 39.6),
    of_mmdet("htc", "htc_x101_32x4d_fpn_16x1_20e_coco", 20200318, "de97ae01",
             "gin/htc_x101_32x4d_fpn_20e_coco.gin", 46.1, 40.5),
    of_mmdet("htc", "htc_x101_64x4d_fpn_16x1_20e_coco", 20200318, "b181fd7a",
             "gin/htc_x101_64x4d_fpn_20e_coco.gin", 47.0, 41.4),
    of_mmdet("htc", "htc_x101_64x4d_fpn_dconv_c3-c5_mstrain_400_1400_16x1_20e_coco", 20200312, "946fd751",
             "gin/htc_x101_64x4d_fpn_dconv_c3_c5_ms_400_1400_20e_coco.gin", 50.4, 43.8),
    of_mmdet("cascade_rcnn", "cascade_mask_rcnn_r50_fpn_1x_coco", 20200203, "9d4dcb24",
             "gin/cascade_mask_rcnn_r50_fpn_1x_coco.gin", 41.2, 35.9),
    of_mmdet("mask_rcnn", "mask_rcnn_r50_fpn_1x_coco", 20200205, "d4b0c5d6",
             "gin/mask_rcnn_r50_fpn_1x_coco.gin", 38.2, 34.7),
    of_mmdet("cascade_rcnn", "cascade_rcnn_r50_fpn_1x_coco", 20200316, "3dc56deb",
             "gin/cascade_rcnn_r50_fpn_1x_coco.gin", 40.3),
    of_mmdet("faster_rcnn", "faster_rcnn_r50_fpn_1x_coco", 20200130, "047c8118",
             "gin/faster_rcnn_r50_fpn_1x_coco.gin", 37.4),
    PublicWeights("htc_r50_fpn_1x_coco_paddle", "paddle", "htc_r50_fpn_1x_coco.pdparams", None,
                  ("gin/htc_r50_fpn_1x_coco.gin", "gin/options/paddle.gin"),
                  (f"{PADDLE}/htc_r50_fpn_1x_coco.pdparams",), 42.1, 37.3, "Apache-2.0"),
    of_torchvision("resnet18", "f37072fd"),
    of_torchvision("resnet34", "b627a593"),
    of_torchvision("resnet50", "0676ba61"),
    of_torchvision("resnet101", "63fe2227"),
    of_openmmlab("resnext101_32x4d", "a5af3160"),
    of_openmmlab("resnext101_64x4d", "ee2c6f71"),
    of_swin("swin_tiny_patch4_window7_224", "sha384:210021216e1f205617d885836b1ac59d",
            (f"{OPENVINO}/swin-tiny-patch4-window7-224/swin_tiny_patch4_window7_224.pth",)),
    of_swin("swin_small_patch4_window7_224"),
    of_swin("swin_base_patch4_window7_224"),
)
# fmt: on
WEIGHTS = {weights.name: weights for weights in _ALL}


def nearest(name):
    """Returns up to three names of the table that begin with a name or resemble it."""
    return [known for known in WEIGHTS if known.startswith(name)][:3] or difflib.get_close_matches(
        name, WEIGHTS, n=3, cutoff=0.6
    )


def find(text, flag):
    """Returns the PublicWeights that a flag names, or None if it names a file.

    Args:
        text: str, the path of a file, or a name of `WEIGHTS`. An existing file wins over a name.
        flag: str, the flag, for messages.
    Raises:
        UserError: There is neither such a file nor such a name.
    """
    path, remedy = Path(text), "give a checkpoint file, or a name of docs/weights.md"
    if not text:
        raise UserError(f"{flag} is empty: {remedy}")
    if path.exists() or text in WEIGHTS:
        return None if path.exists() else WEIGHTS[text]
    check_path(path)
    if "/" in text or path.suffix:
        raise UserError(f"{flag} {text} is missing: {remedy}")
    names = nearest(text)
    advice = f"the nearest are {', '.join(names)}" if names else "docs/weights.md lists the names"
    raise UserError(f"{flag} {text} is missing, and no public weights have this name; {advice}")


def locate(text, flag):
    """Returns the checkpoint file that a flag names, after downloading it if it is not in the cache.

    Args:
        text, flag: Arguments of `find`.
    Returns:
        (Path, source): `source` is that of the name, or None for a file.
    Raises:
        UserError: There is neither such a file nor such a name, or no address of the name answers.
    """
    named = find(text, flag)
    if named is None:
        return Path(text), None
    from htc_tf.weights.download import fetch

    return fetch(named), named.source
