"""The table of public weights: complete, consistent with the gin files and the documentation, and searched by name."""

import re
from pathlib import Path

import pytest

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.weights import model_zoo
from htc_tf.weights.public_weights import WEIGHTS
from htc_tf.weights.sources import SOURCES

ROOT = Path(__file__).resolve().parents[2]
DETECTORS = [weights for weights in WEIGHTS.values() if not weights.is_backbone]


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))
def test_a_row_is_complete(weights):
    assert weights.source in SOURCES and weights.addresses
    assert all(re.fullmatch(rf"https://[\w./-]+/{re.escape(weights.file)}", address) for address in weights.addresses)
    assert len(set(weights.addresses)) == len(weights.addresses)
    assert (weights.box_ap is None) == weights.is_backbone
    # A name that ends with the digits of its hash needs no other proof.
    sha256, md5 = re.search(r"-([0-9a-f]{8})\.pth$", weights.file), re.search(r"_([0-9a-f]{6})\.pkl$", weights.file)
    named = sha256[1] if sha256 else f"md5:{md5[1]}" if md5 and "ViTDet" not in weights.addresses[0] else None
    assert weights.digest == named or re.match("sha384:|md5:", weights.digest)


def test_the_files_of_mmdetection():
    """From `configs/htc/metafile.yml`; every address of open-mmlab has a copy on another host."""
    first = WEIGHTS["htc_r50_fpn_1x_coco"]
    path = "mmdetection/v2.0/htc/htc_r50_fpn_1x_coco/htc_r50_fpn_1x_coco_20200317-7332cf16.pth"
    assert first.addresses[0] == f"https://download.openmmlab.com/{path}" and first.digest == "7332cf16"
    for weights in WEIGHTS.values():
        if "openmmlab" in weights.addresses[0]:
            assert len({address.split("/")[2] for address in weights.addresses}) == 3
            assert len({address.split("/", 3)[3] for address in weights.addresses}) == 1


@pytest.mark.parametrize("weights", DETECTORS, ids=[weights.name for weights in DETECTORS])
def test_the_gin_files_of_a_detector_build_it(weights):
    """Experiment configs of COCO each build and have 80 classes, see test_gin_files; an override is loaded here."""
    first, *overrides = weights.gin_files
    assert re.fullmatch(r"gin/(\w+/)?\w+_coco\.gin", first) and not first.startswith(("gin/base/", "gin/options/"))
    assert (ROOT / first).is_file()
    assert not overrides or config.load(weights.gin_files, [])[0].num_classes == 80


def test_every_experiment_config_with_published_ap_has_weights():
    """The first row of an experiment config has its AP; further rows are the same model of other projects."""
    first = {}
    for weights in DETECTORS:
        first.setdefault(weights.gin_files[0], (weights.box_ap, weights.mask_ap))
    published = {}
    for path in [*(ROOT / "gin").glob("*_coco.gin"), *(ROOT / "gin").glob("*/*_coco.gin")]:
        found = re.search(r"^# Published on COCO .*?: ([\d.]+)(?: / ([\d.]+))?(?=[ .])", path.read_text(), re.MULTILINE)
        if found:
            name = path.relative_to(ROOT).as_posix()
            published[name] = tuple(ap and float(ap.rstrip(".")) for ap in found.groups())
    assert first == published


def test_backbones_of_the_experiment_configs_are_in_the_table():
    """`BACKBONE_WEIGHTS` of every gin file."""
    text = "".join(path.read_text() for path in (ROOT / "gin").rglob("*.gin"))
    named = set(re.findall(r"^BACKBONE_WEIGHTS = '(\w+)'", text, re.MULTILINE))
    assert named and all(WEIGHTS[name].is_backbone for name in named)


def test_unknown_names():
    for text, advice in (
        ("htc_r50_1x_coco", "the nearest are .*htc_r50_fpn_1x_coco"),
        ("xyz", "docs/weights.md lists"),
    ):
        with pytest.raises(
            UserError, match=f"--weights {text} is missing, and no public weights have this name; {advice}"
        ):
            model_zoo.locate(text, "--weights")
    assert model_zoo.nearest("htc_r50_fpn_1x") == ["htc_r50_fpn_1x_coco", "htc_r50_fpn_1x_coco_paddle"]
    assert model_zoo.nearest("mask-rcnn_r50_fpn_1x_coco")[0] == "mask_rcnn_r50_fpn_1x_coco"  # mmdetection 3's name


@pytest.mark.parametrize("text", ["nowhere/resnet50", "resnet50.pth", "a.pdparams"])
def test_a_missing_file_is_told_from_a_name(text):
    with pytest.raises(UserError, match=f"--weights {text} is missing: give a checkpoint file, or a name of docs/"):
        model_zoo.locate(text, "--weights")


def test_an_empty_flag_names_nothing():
    """As of a shell's variable that is not set."""
    with pytest.raises(UserError, match="--weights is empty: give a checkpoint file, or a name of docs/weights"):
        model_zoo.locate("", "--weights")


def test_a_checkpoint_of_tensorflow_is_no_missing_file(tmp_path):
    (tmp_path / "ckpt-4.index").write_text("")
    with pytest.raises(UserError, match="ckpt-4 is a checkpoint of TensorFlow"):
        model_zoo.locate(str(tmp_path / "ckpt-4"), "--weights")


def test_locate(tmp_path, monkeypatch):
    monkeypatch.setattr("htc_tf.weights.download.fetch", lambda weights: Path("cache") / weights.file)
    assert model_zoo.locate("resnet18", "--weights") == (Path("cache/resnet18-f37072fd.pth"), "torchvision")
    monkeypatch.chdir(tmp_path)
    Path("resnet18").write_text("a file wins over a name")
    assert model_zoo.locate("resnet18", "--weights") == (Path("resnet18"), None)


def test_the_documentation_lists_the_table():
    page = (ROOT / "docs" / "weights.md").read_text()
    rows = []
    for weights in WEIGHTS.values():
        ap = " / ".join(str(value) for value in (weights.box_ap, weights.mask_ap) if value)
        cells = [f"`{weights.name}`", f"`{weights.file}`", *([ap] if ap else []), weights.license or "not stated"]
        rows.append(f"| {' | '.join(cells)} |")
    section = page[page.index("## Names\n") : page.index("## The cache")]
    assert [line for line in section.splitlines() if line.startswith("| `")] == rows
