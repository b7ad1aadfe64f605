"""Public weights: the file of each name, its hash, addresses, gin files, published AP and license.

AP are those on COCO val2017 that the publisher states: mmdetection's configs/*/metafile.yml, PaddleDetection's page of
HTC, and the README of each project. The SHA-256 of a file of mmdetection, open-mmlab or torchvision begins with the
last eight digits of its name, the MD5 of one of detectron2's zoo with the last six. The hash of Swin-T is that of
OpenVINO's open_model_zoo, which also keeps a copy; MAE's authors state theirs; none is published for the others.
"""

from typing import NamedTuple

# Hosts that serve the same paths: mmdetection's documented one, which has failed for weeks at a time, and the storage
# behind it.
OPENMMLAB = (
    "https://download.openmmlab.com",
    "https://openmmlab.oss-accelerate.aliyuncs.com",
    "https://openmmlab.oss-cn-hangzhou.aliyuncs.com",
)
TORCHVISION = "https://download.pytorch.org/models"
OPENVINO = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1"
SWIN = "https://github.com/SwinTransformer/storage/releases/download"
CONVNEXT = "https://dl.fbaipublicfiles.com/convnext"
CBNET = "https://github.com/CBNetwork/storage/releases/download/v1.0.0"
CBNET_LICENSE = "Apache-2.0, in its README for academic use only"
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2"
MAE = "https://dl.fbaipublicfiles.com/mae/pretrain"
PADDLE = "https://bj.bcebos.com/v1/paddledet/models"
IMAGENET_STD = (58.395, 57.12, 57.375)  # of RGB values, 0 ... 255
MSRA_STD = (1.0, 1.0, 1.0)  # of detectron2's ResNets, whose weights hold the standard deviation


class PublicWeights(NamedTuple):
    """A public checkpoint file."""

    name: str
    source: str  # key of `sources.SOURCES`
    file: str
    # First digits of its SHA-256, or "sha384:..." or "md5:..." as pooch writes them; None where none is published.
    digest: str | None
    gin_files: tuple[str, ...]  # of its model; () for a backbone
    addresses: tuple[str, ...]  # in the order in which they are tried
    box_ap: float | None = None
    mask_ap: float | None = None
    license: str | None = None  # of the project that publishes the file; None where it states none
    pixel_std: tuple[float, float, float] = IMAGENET_STD  # what the pixels were divided by

    @property
    def is_backbone(self) -> bool:
        """True for the classifier of a backbone, False for a detector."""
        return not self.gin_files


def of_mmdet(
    folder: str,
    name: str,
    date: int | str | None,
    digits: str | None,
    gin_file: str,
    box_ap: float | None,
    mask_ap: float | None = None,
) -> PublicWeights:
    """Returns a detector of mmdetection, whose names and paths follow a rule; some names have no date."""
    file = f"{name}_{date}-{digits}.pth" if date else f"{name}-{digits}.pth"
    addresses = tuple(f"{host}/mmdetection/v2.0/{folder}/{name}/{file}" for host in OPENMMLAB)
    return PublicWeights(name, "mmdet", file, digits, (gin_file,), addresses, box_ap, mask_ap, "Apache-2.0")


def of_authors(address: str, gin_file: str, box_ap: float, mask_ap: float, license: str) -> PublicWeights:
    """Returns a detector of a paper's authors, with mmdetection's names of the heads; its name is the file's."""
    file = address.rsplit("/", 1)[1]
    return PublicWeights(file.split(".")[0], "mmdet", file, None, (gin_file,), (address,), box_ap, mask_ap, license)


def of_detectron2(
    folder: str,
    name: str,
    number: int | str,
    digits: str | None,
    gin_file: str,
    box_ap: float | None,
    mask_ap: float | None,
) -> PublicWeights:
    """Returns a detector of detectron2's model zoo."""
    file = f"model_final_{digits}.pkl"
    address = f"{DETECTRON2}/{folder}/{name}/{number}/{file}"
    gin_files, license = (gin_file,), "CC-BY-SA-3.0"
    weights = PublicWeights(name, "detectron2", file, f"md5:{digits}", gin_files, (address,), box_ap, mask_ap, license)
    return weights._replace(pixel_std=IMAGENET_STD if "X_101" in name else MSRA_STD)


def of_vitdet(name: str, number: str, digits: str, box_ap: float, mask_ap: float) -> PublicWeights:
    """Returns a detector of detectron2's ViTDet, whose page states neither a hash nor a license of the files."""
    gin_file = f"gin/vitdet/{name}_100ep_coco.gin"
    weights = of_detectron2("ViTDet/COCO", name, number, digits, gin_file, box_ap, mask_ap)
    return weights._replace(name=f"{name}_100ep", digest=None, license="Apache-2.0", pixel_std=IMAGENET_STD)


def of_torchvision(name: str, digits: str | None) -> PublicWeights:
    """Returns an ImageNet classifier of torchvision, with the first published weights (V1)."""
    file = f"{name}-{digits}.pth"
    addresses = (f"{TORCHVISION}/{file}",)
    return PublicWeights(name, "torchvision", file, digits, (), addresses, license="BSD-3-Clause")


def of_openmmlab(name: str, digits: str | None, suffix: str = "") -> PublicWeights:
    """Returns an ImageNet classifier of open-mmlab's collection, under torchvision's names."""
    file = f"{name}{suffix}-{digits}.pth"
    addresses = tuple(f"{host}/pretrain/third_party/{file}" for host in OPENMMLAB)
    return PublicWeights(name, "torchvision", file, digits, (), addresses)


def of_classifier(
    source: str,
    *addresses: str,
    license: str | None,
    name: str | None = None,
    digest: str | None = None,
    pixel_std: tuple[float, float, float] = IMAGENET_STD,
) -> PublicWeights:
    """Returns an ImageNet classifier of a paper's authors; its name is the file's unless given."""
    file = addresses[0].rsplit("/", 1)[1]
    return PublicWeights(
        name or file.split(".")[0], source, file, digest, (), addresses, license=license, pixel_std=pixel_std
    )


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
    of_mmdet("detectors", "htc_r50_rfp_1x_coco", None, "8ff87c51",
             "gin/detectors/htc_r50_rfp_1x_coco.gin", 46.6, 40.9),
    of_mmdet("detectors", "htc_r50_sac_1x_coco", None, "bfa60c54",
             "gin/detectors/htc_r50_sac_1x_coco.gin", 46.4, 40.9),
    of_mmdet("detectors", "detectors_htc_r50_1x_coco", None, "329b1453",
             "gin/detectors/detectors_htc_r50_1x_coco.gin", 49.1, 42.6),
    of_mmdet("detectors", "detectors_htc_r101_20e_coco", "20210419_203638", "348d533b",
             "gin/detectors/detectors_htc_r101_20e_coco.gin", 50.5, 43.9),
    of_mmdet("scnet", "scnet_r50_fpn_1x_coco", None, "c3f09857",
             "gin/scnet/scnet_r50_fpn_1x_coco.gin", 43.5, 39.2),
    of_mmdet("scnet", "scnet_r50_fpn_20e_coco", None, "a569f645",
             "gin/scnet/scnet_r50_fpn_20e_coco.gin", 44.5, 40.0),
    of_mmdet("scnet", "scnet_r101_fpn_20e_coco", None, "294e312c",
             "gin/scnet/scnet_r101_fpn_20e_coco.gin", 45.8, 40.9),
    of_mmdet("scnet", "scnet_x101_64x4d_fpn_20e_coco", None, "fb09dec9",
             "gin/scnet/scnet_x101_64x4d_fpn_20e_coco.gin", 47.5, 42.3),
    of_mmdet("res2net", "htc_r2_101_fpn_20e_coco", None, "3a8d2112",
             "gin/res2net/htc_r2_101_fpn_20e_coco.gin", 47.5, 41.6),
    of_mmdet("res2net", "cascade_mask_rcnn_r2_101_fpn_20e_coco", None, "8a7b41e1",
             "gin/res2net/cascade_mask_rcnn_r2_101_fpn_20e_coco.gin", 46.4, 40.0),
    of_mmdet("res2net", "mask_rcnn_r2_101_fpn_2x_coco", None, "17f061e8",
             "gin/res2net/mask_rcnn_r2_101_fpn_2x_coco.gin", 43.6, 38.7),
    of_mmdet("hrnet", "htc_hrnetv2p_w18_20e_coco", "20200210", "b266988c",
             "gin/hrnet/htc_hrnetv2p_w18_20e_coco.gin", 42.8, 37.9),
    of_mmdet("hrnet", "htc_hrnetv2p_w32_20e_coco", "20200207", "7639fa12",
             "gin/hrnet/htc_hrnetv2p_w32_20e_coco.gin", 45.4, 39.9),
    of_mmdet("hrnet", "htc_hrnetv2p_w40_20e_coco", "20200529_183411", "417c4d5b",
             "gin/hrnet/htc_hrnetv2p_w40_20e_coco.gin", 46.4, 40.8),
    of_authors(f"{SWIN}/v1.0.3/mask_rcnn_swin_tiny_patch4_window7_1x.pth",
               "gin/swin/mask_rcnn_swin_t_fpn_1x_coco.gin", 43.7, 39.8, "Apache-2.0"),
    of_authors(f"{SWIN}/v1.0.2/mask_rcnn_swin_tiny_patch4_window7.pth",
               "gin/swin/mask_rcnn_swin_t_fpn_3x_coco.gin", 46.0, 41.6, "Apache-2.0"),
    of_authors(f"{SWIN}/v1.0.2/mask_rcnn_swin_small_patch4_window7.pth",
               "gin/swin/mask_rcnn_swin_s_fpn_3x_coco.gin", 48.5, 43.3, "Apache-2.0"),
    of_authors(f"{SWIN}/v1.0.3/cascade_mask_rcnn_swin_tiny_patch4_window7_1x.pth",
               "gin/swin/cascade_mask_rcnn_swin_t_fpn_1x_coco.gin", 48.1, 41.7, "Apache-2.0"),
    of_authors(f"{SWIN}/v1.0.2/cascade_mask_rcnn_swin_tiny_patch4_window7.pth",
               "gin/swin/cascade_mask_rcnn_swin_t_fpn_3x_coco.gin", 50.4, 43.7, "Apache-2.0"),
    of_authors(f"{SWIN}/v1.0.2/cascade_mask_rcnn_swin_small_patch4_window7.pth",
               "gin/swin/cascade_mask_rcnn_swin_s_fpn_3x_coco.gin", 51.9, 45.0, "Apache-2.0"),
    of_authors(f"{SWIN}/v1.0.2/cascade_mask_rcnn_swin_base_patch4_window7.pth",
               "gin/swin/cascade_mask_rcnn_swin_b_fpn_3x_coco.gin", 51.9, 45.0, "Apache-2.0"),
    of_authors(f"{CONVNEXT}/coco/mask_rcnn_convnext_tiny_1k_3x.pth",
               "gin/convnext/mask_rcnn_convnext_t_fpn_3x_coco.gin", 46.2, 41.7, "MIT"),
    of_authors(f"{CONVNEXT}/coco/cascade_mask_rcnn_convnext_tiny_1k_3x.pth",
               "gin/convnext/cascade_mask_rcnn_convnext_t_fpn_3x_coco.gin", 50.4, 43.7, "MIT"),
    of_authors(f"{CONVNEXT}/coco/cascade_mask_rcnn_convnext_small_1k_3x.pth",
               "gin/convnext/cascade_mask_rcnn_convnext_s_fpn_3x_coco.gin", 51.9, 45.0, "MIT"),
    of_authors(f"{CONVNEXT}/coco/cascade_mask_rcnn_convnext_base_1k_3x.pth",
               "gin/convnext/cascade_mask_rcnn_convnext_b_fpn_3x_coco.gin", 52.7, 45.6, "MIT"),
    of_authors(f"{CONVNEXT}/coco/cascade_mask_rcnn_convnext_base_22k_3x.pth",
               "gin/convnext/cascade_mask_rcnn_convnext_b_fpn_3x_22k_coco.gin", 54.0, 46.9, "MIT"),
    of_authors(f"{CONVNEXT}/coco/cascade_mask_rcnn_convnext_large_22k_3x.pth",
               "gin/convnext/cascade_mask_rcnn_convnext_l_fpn_3x_22k_coco.gin", 54.8, 47.6, "MIT"),
    of_authors(f"{CONVNEXT}/coco/cascade_mask_rcnn_convnext_xlarge_22k_3x.pth",
               "gin/convnext/cascade_mask_rcnn_convnext_xl_fpn_3x_22k_coco.gin", 55.2, 47.7, "MIT"),
    of_mmdet("convnext", "mask_rcnn_convnext-t_p4_w7_fpn_fp16_ms-crop_3x_coco", "20220426_154953", "050731f4",
             "gin/convnext/mask_rcnn_convnext_t_fpn_3x_coco.gin", 46.2, 41.7),
    of_mmdet("convnext", "cascade_mask_rcnn_convnext-t_p4_w7_fpn_giou_4conv1f_fp16_ms-crop_3x_coco",
             "20220509_204200", "8f07c40b", "gin/convnext/cascade_mask_rcnn_convnext_t_fpn_3x_coco.gin", 50.3, 43.6),
    of_mmdet("convnext", "cascade_mask_rcnn_convnext-s_p4_w7_fpn_giou_4conv1f_fp16_ms-crop_3x_coco",
             "20220510_201004", "3d24f5a4", "gin/convnext/cascade_mask_rcnn_convnext_s_fpn_3x_coco.gin", 51.8, 44.8),
    PublicWeights("faster_rcnn_cbv2d1_r50_fpn_1x_coco", "mmdet", "faster_rcnn_cbv2d1_r50_fpn_1x_coco.pth.zip", None,
                  ("gin/cbnet/faster_rcnn_cbv2d1_r50_fpn_1x_coco.gin",),
                  (f"{CBNET}/faster_rcnn_cbv2d1_r50_fpn_1x_coco.pth.zip",), 40.8, license=CBNET_LICENSE),
    of_authors(f"{CBNET}/mask_rcnn_cbv2_swin_tiny_patch4_window7_mstrain_480-800_adamw_3x_coco.pth.zip",
               "gin/cbnet/mask_rcnn_cbv2_swin_t_fpn_3x_coco.gin", 50.2, 44.5, CBNET_LICENSE),
    of_authors(f"{CBNET}/cascade_mask_rcnn_cbv2_swin_tiny_patch4_window7_mstrain_480-800_adamw_3x_coco.pth.zip",
               "gin/cbnet/cascade_mask_rcnn_cbv2_swin_t_fpn_3x_coco.gin", 53.6, 46.2, CBNET_LICENSE),
    of_authors(f"{CBNET}/cascade_mask_rcnn_cbv2_swin_small_patch4_window7_mstrain_400-1400_adamw_3x_coco.pth.zip",
               "gin/cbnet/cascade_mask_rcnn_cbv2_swin_s_fpn_ms_400_1400_3x_coco.gin", 56.3, 48.6, CBNET_LICENSE),
    of_authors(f"{CBNET}/htc_cbv2_swin_base22k_patch4_window7_mstrain_400-1400_adamw_20e_coco.pth.zip",
               "gin/cbnet/htc_cbv2_swin_b_fpn_ms_400_1400_20e_coco.gin", 57.9, 50.2, CBNET_LICENSE),
    of_authors(f"{CBNET}/htc_cbv2_swin_base22k_patch4_window7_mstrain_400-1400_giou_4conv1f_adamw_20e_coco.pth.zip",
               "gin/cbnet/htc_cbv2_swin_b_fpn_ms_400_1400_giou_4conv1f_20e_coco.gin", 58.4, 50.7, CBNET_LICENSE),
    of_authors(f"{CBNET}/htc_cbv2_swin_large22k_patch4_window7_mstrain_400-1400_giou_4conv1f_adamw_1x_coco.pth.zip",
               "gin/cbnet/htc_cbv2_swin_l_fpn_ms_400_1400_giou_4conv1f_1x_coco.gin", 59.1, 51.0, CBNET_LICENSE),
    of_detectron2("COCO-InstanceSegmentation", "mask_rcnn_R_50_FPN_1x", "137260431", "a54504",
                  "gin/detectron2/mask_rcnn_r50_fpn_1x_coco.gin", 38.6, 35.2),
    of_detectron2("COCO-InstanceSegmentation", "mask_rcnn_R_50_FPN_3x", "137849600", "f10217",
                  "gin/detectron2/mask_rcnn_r50_fpn_3x_coco.gin", 41.0, 37.2),
    of_detectron2("COCO-InstanceSegmentation", "mask_rcnn_R_101_FPN_3x", "138205316", "a3ec72",
                  "gin/detectron2/mask_rcnn_r101_fpn_3x_coco.gin", 42.9, 38.6),
    of_detectron2("COCO-InstanceSegmentation", "mask_rcnn_X_101_32x8d_FPN_3x", "139653917", "2d9806",
                  "gin/detectron2/mask_rcnn_x101_32x8d_fpn_3x_coco.gin", 44.3, 39.5),
    of_detectron2("Misc", "cascade_mask_rcnn_R_50_FPN_1x", "138602847", "e9d89b",
                  "gin/detectron2/cascade_mask_rcnn_r50_fpn_1x_coco.gin", 42.1, 36.4),
    of_detectron2("Misc", "cascade_mask_rcnn_R_50_FPN_3x", "144998488", "480dd8",
                  "gin/detectron2/cascade_mask_rcnn_r50_fpn_3x_coco.gin", 44.3, 38.5),
    of_vitdet("mask_rcnn_vitdet_b", "f325346929", "61ccd1", 51.6, 45.9),
    of_vitdet("mask_rcnn_vitdet_l", "f325599698", "6146ed", 55.5, 49.2),
    of_vitdet("cascade_mask_rcnn_vitdet_b", "f325358525", "435fa9", 54.0, 46.7),
    of_vitdet("cascade_mask_rcnn_vitdet_l", "f328021305", "1a9f28", 57.6, 50.0),
    of_torchvision("resnet18", "f37072fd"),
    of_torchvision("resnet34", "b627a593"),
    of_torchvision("resnet50", "0676ba61"),
    of_torchvision("resnet101", "63fe2227"),
    of_openmmlab("resnext101_32x4d", "a5af3160"),
    of_openmmlab("resnext101_64x4d", "ee2c6f71"),
    of_openmmlab("res2net101_v1d_26w_4s", "f0a600f9", "_mmdetv2"),
    of_openmmlab("hrnetv2_w18", "00eb2006"),
    of_openmmlab("hrnetv2_w32", "dc9eeb4f"),
    of_openmmlab("hrnetv2_w40", "ed0b031c"),
    of_classifier("swin", f"{SWIN}/v1.0.0/swin_tiny_patch4_window7_224.pth",
                  f"{OPENVINO}/swin-tiny-patch4-window7-224/swin_tiny_patch4_window7_224.pth",
                  license="MIT", digest="sha384:210021216e1f205617d885836b1ac59d"),
    *(of_classifier("swin", f"{SWIN}/v1.0.0/swin_{name}.pth", license="MIT")
      for name in ("small_patch4_window7_224", "base_patch4_window7_224", "base_patch4_window7_224_22k",
                   "base_patch4_window12_384_22k", "large_patch4_window7_224_22k", "large_patch4_window12_384_22k")),
    *(of_classifier("convnext", f"{CONVNEXT}/convnext_{name}_224.pth", license="MIT")
      for name in ("tiny_1k", "small_1k", "base_1k", "tiny_22k", "small_22k", "base_22k", "large_22k", "xlarge_22k")),
    *(of_classifier("caffe2", f"{DETECTRON2}/ImageNetPretrained/{file}.pkl", name=name, license="CC-BY-SA-3.0",
                    pixel_std=std)
      for name, file, std in (("msra_resnet50", "MSRA/R-50", MSRA_STD),
                              ("msra_resnet101", "MSRA/R-101", MSRA_STD),
                              ("caffe2_resnext101_32x8d", "FAIR/X-101-32x8d", IMAGENET_STD))),
    *(of_classifier("vit", f"{MAE}/{file}", f"{DETECTRON2}/ImageNetPretrained/MAE/{file}", license="CC-BY-NC-4.0",
                    digest=digest)
      for file, digest in (("mae_pretrain_vit_base.pth", "md5:8cad7c"), ("mae_pretrain_vit_large.pth", "md5:b8b06e"))),
)
# fmt: on
WEIGHTS = {weights.name: weights for weights in _ALL}
