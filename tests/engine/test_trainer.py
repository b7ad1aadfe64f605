"""Training: what a run writes, that it goes on as if it had never stopped, and when it refuses to."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.engine.step import normalise
from htc_tf.engine.trainer import train
from htc_tf.errors import UserError
from htc_tf.models.objective import Loss
from htc_tf.run import Run

TINY = str(Path(__file__).resolve().parent.parent / "tiny.gin")
LOSSES = ["rpn_class", "rpn_box", *(f"stage{t}_{name}" for t in (1, 2, 3) for name in ("class", "box", "mask"))]
LOSSES.append("semantic")


def lines(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def steps(run):
    return [record for record in lines(run) if "total" in record]


def checkpoints(run):
    return sorted(path.stem for path in run.checkpoints.glob("*.index"))


def test_what_a_run_writes(tiny_run):
    records = steps(tiny_run)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    for record in records:
        assert set(record) == {"step", "total", "learning_rate", "images_per_second", "gradient_norm", *LOSSES}
        assert record["total"] == pytest.approx(sum(record[name] for name in LOSSES), rel=1e-5)
        assert all(math.isfinite(value) for value in record.values()) and record["images_per_second"] > 0
    # 4e-3 for 16 images is 5e-4 for two; a hundredth of it at first; then a cosine.
    wanted = [5e-6, *(5e-4 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / 4))) for step in (1, 2, 3))]
    np.testing.assert_allclose([record["learning_rate"] for record in records], wanted, rtol=1e-5)
    assert checkpoints(tiny_run) == ["ckpt-2", "ckpt-4"]
    assert "STEPS = 4" in tiny_run.read_config()
    assert [row["id"] for row in tiny_run.read_categories()] == list(range(1, 9))
    (evaluation,) = (record for record in lines(tiny_run) if "bbox/AP" in record)
    assert evaluation["step"] == 4 and "segm/AP50" in evaluation


def test_tensorboard_has_the_numbers_and_pictures(tiny_run):
    tags = {}
    for path in tiny_run.folder.glob("events.out.tfevents.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append(event.step)
    for name in [f"loss/{name}" for name in ["total", *LOSSES]] + ["learning_rate", "images_per_second"]:
        assert tags[name] == [1, 2, 3, 4], name
    assert tags["bbox/AP"] == tags["segm/AP"] == [4]
    assert tags["gin/config"] == [0]
    assert sum(name.startswith("truth and prediction") for name in tags) == 6


def copy(tiny_run, folder, newest):
    """A run as it would be had it been killed after the step `newest`."""
    run = Run(shutil.copytree(tiny_run.folder, folder))
    tf.compat.v1.train.update_checkpoint_state(str(run.checkpoints), str(run.checkpoints / f"ckpt-{newest}"))
    for path in run.checkpoints.glob("ckpt-*"):
        if path.stem > f"ckpt-{newest}":
            path.unlink()
    return run


def start(run, records, *params, devices=None):
    experiment, resolved = config.load([TINY], params)
    train(experiment, resolved, records, None, run, devices=devices)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tiny_run, tiny_data, tmp_path, eagerly):
    run = copy(tiny_run, tmp_path / "run", newest=2)
    start(run, tiny_data.records)
    assert checkpoints(run) == ["ckpt-2", "ckpt-4"]
    assert [record["step"] for record in lines(run)] == [1, 2, 3, 4]
    for record, wanted in zip(steps(run), steps(tiny_run), strict=True):
        for name in [*LOSSES, "total", "learning_rate", "gradient_norm"]:
            np.testing.assert_allclose(record[name], wanted[name], rtol=1e-3, atol=1e-6, err_msg=name)
    for name, _ in tf.train.list_variables(str(run.checkpoints / "ckpt-4")):
        if name.startswith("model/") and "_CHECKPOINTABLE" not in name:
            values = [tf.train.load_variable(str(r.checkpoints / "ckpt-4"), name) for r in (run, tiny_run)]
            np.testing.assert_allclose(*values, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_finished_run_has_nothing_left_to_do(tiny_run, tiny_data, tmp_path):
    run = copy(tiny_run, tmp_path / "run", newest=4)
    before = run.metrics.read_text()
    start(run, tiny_data.records)
    assert run.metrics.read_text() == before and checkpoints(run) == ["ckpt-2", "ckpt-4"]


def test_a_run_that_cannot_go_on_is_left_as_it_is(tiny_run, tiny_data, tmp_path):
    run = copy(tiny_run, tmp_path / "run", newest=4)
    before = run.read_config(), run.metrics.read_text()
    with pytest.raises(UserError, match=r"ckpt-4 does not fit.*mask_head"):
        start(run, tiny_data.records, "MASKS=False", "STEPS=5")
    with pytest.raises(UserError, match=r"ckpt-4 does not fit.*lacks"):
        start(run, tiny_data.records, "BoxHead.channels=32", "STEPS=5")
    assert (run.read_config(), run.metrics.read_text()) == before


def test_no_steps_still_leave_a_run(tiny_data, tmp_path):
    run = Run(tmp_path)
    start(run, tiny_data.records, "STEPS=0")
    assert checkpoints(run) == ["ckpt-0"] and run.config.exists() and not lines(run)


def spoiled(objective, name, at):
    """An objective one of whose losses is NaN from the call number `at` on."""
    calls = []

    def call(*arguments):
        calls.append(None)
        named = objective(*arguments)
        if len(calls) >= at:
            named[name] = named[name]._replace(total=named[name].total * float("nan"))
        return named

    return call


def test_a_loss_that_is_not_finite_stops_the_run(tiny_data, tmp_path, eagerly):
    experiment, resolved = config.load([TINY], ["NUM_STAGES=1", "CHECKPOINT_EVERY=1"])
    experiment.objective = spoiled(experiment.objective, "stage1_class", at=3)
    run = Run(tmp_path)
    with pytest.raises(FloatingPointError, match=r"step 3 .*stage1_class, total") as error:
        train(experiment, resolved, tiny_data.records, None, run)
    assert "rpn" not in str(error.value) and "semantic" not in str(error.value)
    assert checkpoints(run) == ["ckpt-1", "ckpt-2"] and len(lines(run)) == 2


def test_a_corrupt_record_is_named(tiny_data, tmp_path):
    records = Path(shutil.copytree(tiny_data.records, tmp_path / "records"))
    shard = sorted(records.glob("*.tfrecord"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=shard.name):
        start(Run(tmp_path / "run"), records, "NUM_STAGES=1")


def test_records_and_configuration_must_fit(tiny_data, tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(UserError, match=r"8 classes.*NUM_CLASSES=8"):
        start(run, tiny_data.records, "NUM_CLASSES=7")
    with pytest.raises(UserError, match=r"13 semantic labels.*NUM_LABELS=13"):
        start(run, tiny_data.records, "NUM_LABELS=12", "NUM_STAGES=1")
    with pytest.raises(UserError, match="nowhere"):
        start(run, "nowhere")
    with pytest.raises(UserError, match=r"--devices GPU:9.*CPU:0"):
        start(run, tiny_data.records, devices=["GPU:9"])
    assert not run.folder.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written"):
        start(Run(tmp_path / "file"), tiny_data.records, "NUM_STAGES=1")


def test_losses_are_divided_by_their_counts():
    named = {
        "some": Loss(tf.constant(6.0), tf.constant(4.0), 0.5),
        "none": Loss(tf.constant(0.0), tf.constant(0.0), 1.0),
    }
    for inside_xla in (False, True):
        shares = normalise(named, replicas=1, inside_xla=inside_xla)
        assert {name: float(share) for name, share in shares.items()} == {"some": 0.75, "none": 0.0}


# What does not depend on how many images a replica has: no random choice, no batch statistics.
TWO_DEVICES = """
import sys, tensorflow as tf
from htc_tf import config
from htc_tf.engine.optim import SGD, AdamW, StepSchedule
from htc_tf.engine.trainer import train
from htc_tf.errors import UserError
from htc_tf.ops.matching import choose_evenly
from htc_tf.run import Run

tiny, records, folder = sys.argv[1:]
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
params = ["NUM_STAGES=1", "ResNet.norm='frozen_batch'", "STEPS=2", "RoISampler.mask_limit=2", "AnchorSampler.limit=8"]

def start(name, devices, *more):
    experiment, resolved = config.load([tiny], [*params, *more])
    experiment.optimizer = SGD(StepSchedule(base=0.4, batch_size=2, steps=4, warmup_steps=0))
    experiment.objective.anchor_sampler.choose = lambda seed: choose_evenly
    build = experiment.build_model
    def build_model():
        model = build()
        model.roi_sampler.choose = lambda seed: choose_evenly
        return model
    experiment.build_model = build_model
    train(experiment, resolved, records, None, Run(f"{folder}/{name}"), devices=devices)

start("one", ["CPU:0"])
start("two", ["CPU:0", "/cpu:1"])
try:
    start("three", ["CPU:0", "CPU:1"], "BATCH_SIZE=3")
except UserError as error:
    print(error)

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    variable = tf.Variable(0.0)
    optimizer = AdamW(StepSchedule(base=0.5, batch_size=16, steps=9, warmup_steps=0)).build()
    optimizer.build([variable])
apply = lambda: optimizer.apply_gradients([(tf.constant(2.0), variable)], skip_gradients_aggregation=True)
tf.function(lambda: strategy.run(apply))()
print("moved to", [round(float(value), 4) for value in strategy.experimental_local_results(variable)])
"""


def test_two_devices_learn_what_one_does(tiny_data, tmp_path):
    command = [sys.executable, "-c", TWO_DEVICES, TINY, tiny_data.records, tmp_path]
    root = Path(TINY).parent.parent
    done = subprocess.run(list(map(str, command)), cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (steps(Run(tmp_path / name)) for name in ("one", "two"))
    assert len(one) == len(two) == 2 and one[1]["total"] != one[0]["total"]
    for a, b in zip(one, two, strict=True):
        for name in a.keys() - {"images_per_second"}:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=1e-6, err_msg=name)
    assert "BATCH_SIZE = 3" in done.stdout and not (tmp_path / "three").exists()
    assert "moved to [-0.5, -0.5]" in done.stdout
