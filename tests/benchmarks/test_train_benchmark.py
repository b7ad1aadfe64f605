"""The benchmark of a training step on a tiny network: as many positives as it says, and all of their arithmetic."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import benchmark
from htc_tf.benchmarks import machine
from htc_tf.benchmarks.train import OfferedPositives
from htc_tf.models.htc import Stage
from htc_tf.models.targets import RoISampler
from htc_tf.structures import GroundTruth


def test_each_stage_finds_what_it_is_offered():
    """512 RoIs with 8 objects: 128, 76 and 44 positives; whatever else overlaps an object is none."""
    stages = [Stage(None, iou_threshold=threshold) for threshold in (0.5, 0.6, 0.7)]
    sampler = OfferedPositives(RoISampler(), stages, objects=8)
    assert sampler.expect(2)["positives for masks"] == [256, 152, 88]
    corners = np.float32([[100 * i, 50 * i] for i in range(8)])
    objects = np.concatenate([corners, corners + np.float32([90, 60])], axis=1)
    padded = tf.constant(np.concatenate([objects, np.zeros([4, 4])])[np.newaxis], tf.float32)
    valid = tf.range(12)[tf.newaxis] < 8
    truth = GroundTruth(padded, tf.zeros([1, 12], tf.int32), valid, None, None, None)
    # Ten of each object's own box among 600.
    boxes = np.float32(np.concatenate([np.tile(objects, (10, 1)), np.tile([[0, 700, 40, 780]], (520, 1))]))[np.newaxis]
    for stage, wanted in zip(stages, (128, 76, 44), strict=True):
        rois = sampler(tf.constant(boxes), tf.ones([1, 600], tf.bool), truth, stage.iou_threshold, [0, 0])
        assert rois.valid.shape == (1, 512) and rois.valid.numpy().all()
        assert rois.positive.numpy().sum() == wanted and rois.is_truth.numpy().sum() == 8
        positive = sampler.positives(rois)
        assert positive.boxes.shape == (1, 128, 4) and positive.valid.numpy().sum() == wanted
        shared = np.bincount(rois.matches.numpy()[rois.positive.numpy()])
        assert shared.sum() == wanted and shared.max() - shared.min() <= 1


def test_the_command(monkeypatch, tmp_path, capsys, eagerly):
    monkeypatch.setattr(machine, "matmul_rate", lambda precision: 1e9)
    monkeypatch.setattr(machine, "copy_rate", lambda: 2e9)
    output = tmp_path / "train.json"
    flags = ["--gin_file=tests/tiny.gin", "--height=64", "--width=64", "--batch=2", "--objects=3", "--repeats=1"]
    more = ["--gin_param=NUM_STAGES=1", "--gin_param=RoISampler.mask_limit=None", f"--json={output}"]
    monkeypatch.setattr(sys, "argv", ["benchmark", "--mode=train", *flags, *more])
    benchmark.main()
    content = json.loads(output.read_text())
    details = content["details"]
    assert content["unit"] == "step" and 0 < content["cpu_seconds"]["median"] < 60
    # Of 16 RoIs an image half are positive.
    assert details["RoIs a stage"] == [32]
    assert details["positive RoIs"] == details["positives for masks"] == [16]
    parts = [part for part in details.values() if isinstance(part, dict) and "backward" in part]
    total = sum(part["forward"] + part["backward"] for part in parts)
    assert len(parts) == 5 and details["share of the limit"]["amount"] == pytest.approx(total)
    assert "train: 64 x 64, batch 2, float32" in capsys.readouterr().out


def test_too_many_objects(monkeypatch, capsys):
    flags = ["--mode=train", "--gin_file=tests/tiny.gin", "--height=64", "--width=64", "--objects=9"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *flags])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and "--objects 9" in line and "MAX_OBJECTS = 8" in line
