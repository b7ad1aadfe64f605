"""Wrappers of checkpoints: the state dict that a file's framework loads, and the averaged or last weights by choice."""

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.weights.pickled_arrays import Inert
from htc_tf.weights.wrappers import class_names, unwrap

LAST = {"backbone.conv1.weight": 1, "roi_head.bbox_head.0.fc_cls.weight": 2}
AVERAGED = {name: 10 * value for name, value in LAST.items()}


def prefixed(prefix, named):
    return {prefix + name: value for name, value in named.items()}


PLAIN = [
    LAST,
    {"state_dict": LAST, "meta": {"epoch": 12}, "optimizer": {"state": {}}},
    {"model": LAST, "epoch": 12},
    {"state_dict": prefixed("module.", LAST)},
    prefixed("_orig_mod.", LAST),
    {"state_dict": prefixed("module._orig_mod.", LAST)},
    {**LAST, "StructuredToParameterName@@": {"a": "b"}},
]
# As mmengine and mmcv write it; their own loading takes the average.
COUNTED = {"steps": 7, **prefixed("module.", LAST)}
MMENGINE = {"state_dict": AVERAGED, "ema_state_dict": COUNTED}
MMCV = {"state_dict": AVERAGED | {f"ema_{name.replace('.', '_')}": value for name, value in LAST.items()}}
# As timm and the authors of ConvNeXt write it; their own loading takes the last weights.
OTHERS = [{"model": LAST, "model_ema": AVERAGED}, {"state_dict": LAST, "state_dict_ema": AVERAGED}]
ALONE = [
    {"ema_state_dict": {"steps": 7, **prefixed("module.", AVERAGED)}},
    {"model_ema": {"n_averaged": 7, **prefixed("module.", AVERAGED)}},
    {"state_dict": prefixed("ema_", AVERAGED)},
]


@pytest.mark.parametrize("content", PLAIN)
@pytest.mark.parametrize("ema", [None, False])
def test_a_file_without_averages(content, ema):
    assert unwrap(content, "x.pth", ema) == (LAST, [])


@pytest.mark.parametrize("content", PLAIN)
def test_averages_that_a_file_lacks(content):
    with pytest.raises(UserError, match=r"x\.pth holds no averaged \(EMA\) weights: leave out --ema yes"):
        unwrap(content, "x.pth", ema=True)


@pytest.mark.parametrize("content", [MMENGINE, MMCV])
def test_averages_of_mmengine_and_mmcv(content):
    for ema, expected in ((None, AVERAGED), (True, AVERAGED), (False, LAST)):
        named, notes = unwrap(content, "x.pth", ema)
        assert named == expected
        assert len(notes) == (content is MMCV)


def test_mmcv_averages_no_statistics():
    """Buffers, such as the statistics of batch norms, have no average and stay."""
    content = {"a.weight": 1, "a.running_mean": 2, "ema_a_weight": 3, "a.num_batches_tracked": 4}
    named, (note,) = unwrap(content, "x.pth", ema=False)
    assert named == {"a.weight": 3, "a.running_mean": 2, "a.num_batches_tracked": 4}
    assert "averages of mmcv" in note


@pytest.mark.parametrize("content", OTHERS)
def test_averages_of_others(content):
    for ema, expected in ((None, LAST), (True, AVERAGED), (False, LAST)):
        assert unwrap(content, "x.pth", ema) == (expected, [])


@pytest.mark.parametrize("content", ALONE)
def test_averages_alone(content):
    for ema in (None, True):
        assert unwrap(content, "x.pth", ema) == (AVERAGED, [])
    with pytest.raises(UserError, match=r"x\.pth holds the averaged \(EMA\) weights alone: leave out --ema no"):
        unwrap(content, "x.pth", ema=False)


@pytest.mark.parametrize("content", [3, [1], {}, {"state_dict": {}}, {1: 2}, {"a\nb": 1}, {"w" * 999: 1}, {"steps": 7}])
def test_a_file_without_weights_is_refused(content):
    with pytest.raises(UserError, match=r"x\.pth holds no named weights"):
        unwrap(content, "x.pth")


@pytest.mark.parametrize("content", [Inert("nn.tasks.Model"), {"model": Inert("nn.tasks.Model"), "epoch": 3}])
def test_a_whole_network_is_refused(content):
    with pytest.raises(UserError, match=r"x\.pth holds an object of nn\.tasks\.Model instead of named weights"):
        unwrap(content, "x.pth")


def test_class_names():
    for meta in (
        {"CLASSES": ("cat", "street sign")},
        {"dataset_meta": {"classes": ["cat", "street sign"]}, "CLASSES": None},
        {"dataset_meta": {"CLASSES": ("cat", "street sign")}},
    ):
        assert class_names({"meta": meta}) == ["cat", "street sign"]


@pytest.mark.parametrize(
    "meta", [None, {}, Inert("a.B"), {"dataset_meta": Inert("a.B")}]
    + [{"CLASSES": names} for names in ("cat", (), ["a", 3], ["a\nb"], ["\x1b[31m"], np.array(["a"]), {"a": 1}, ("",))]
)  # fmt: skip
def test_other_classes_are_ignored(meta):
    assert class_names({"meta": meta}) is None and class_names(meta) is None
