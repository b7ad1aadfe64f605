"""Dry run: its numbers agree with a second way of counting."""

import re
from pathlib import Path

import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.data.datasets import load_info
from htc_tf.errors import UserError
from htc_tf.run import Run
from htc_tf.training.dry_run import Parts, dry_run, flops, length_lines, run_mask_heads
from htc_tf.training.memory import PROGRAM
from htc_tf.training.optim import SGD
from htc_tf.training.schedules import StepSchedule

TINY = str(Path(__file__).resolve().parents[1] / "tiny.gin")
BARE = ["NUM_STAGES=1", "MASKS=False", "SEMANTIC=False"]


def test_flops_of_a_known_graph():
    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3])], autograph=False)
    def call(image):
        image = tf.nn.conv2d(image, tf.ones([3, 3, 3, 5]), 1, "SAME")
        return tf.reshape(image, [64, 5]) @ tf.ones([5, 7])

    counted = {name.split("/")[-1].lower(): number for name, number in flops(call.get_concrete_function().graph)}
    assert counted["conv2d"] == 2 * 8 * 8 * 3 * 3 * 3 * 5 and counted["matmul"] == 2 * 64 * 5 * 7


def test_parts(tiny_model):
    _, model = tiny_model("NUM_STAGES=2")
    parts = Parts(model)
    names = [variable.name for variable in model.variables]
    assert parts.add((name, 1) for name in names).keys() == set(parts.order) - {"other"}
    assert parts.of("htc/backbone/conv1/Conv2D") == "backbone" and parts.of("htc/mystery/add") == "other"


def test_mask_heads_count_with_all_their_rois(tiny_model):
    """Two heads of a 3x3 convolution, after a 1x1 in the second, a deconvolution and logits of 8 classes."""
    _, model = tiny_model("NUM_STAGES=2")
    cells, channels = 5 * 14 * 14, 16
    convs, flow_conv = (2 * cells * side * side * channels * channels for side in (3, 1))
    logits = 2 * cells * 4 * channels * channels + 2 * 4 * cells * channels * 8
    # In training the second stage has its own RoIs, which also pass through the first head's convolutions.
    for training, passes in ((False, 2), (True, 3)):
        call = tf.function(lambda training=training: run_mask_heads(model, 5, training), autograph=False)
        pairs = flops(call.get_concrete_function().graph)
        assert sum(n for name, n in pairs if "conv2d" in name.lower()) == passes * convs + flow_conv + 2 * logits


def test_sections(tiny_data):
    experiment, resolved = config.load([TINY], BARE)
    text = dry_run(experiment, resolved, tiny_data.records)
    sections = dict(re.findall(r"== (.*?) ==\n(.*?)(?=\n\n==|\Z)", text, re.DOTALL))
    assert sections["configuration"] == resolved.strip()
    # The longest section comes last, so that it does not scroll the others out of sight.
    assert list(sections) == [
        *("length", "memory", "GFLOPs per image", "parameters", "first batch", "configuration", "variables"),
    ]
    table, variables = sections["parameters"], sections["variables"]
    total, trained = (int(x.replace(",", "")) for x in re.search(r"total +([\d,]+) +([\d,]+)", table).groups())
    shapes = [[int(x) for x in re.findall(r"\d+", line)] for line in re.findall(r"\[(.*?)\]", variables)]
    assert total == sum(int(tf.reduce_prod(shape)) for shape in shapes) and 0 < trained < total
    sizes = {
        name: float(n.replace(",", "")) for name, n in re.findall(r"^(\S.*?) +([\d.,]+) MB$", sections["memory"], re.M)
    }
    weights, gradients, slots = sizes["weights"], sizes["gradients"], sizes["optimizer"]
    assert sizes.pop("total") == pytest.approx(sum(sizes.values()), abs=1)
    assert sizes["program, in the host's memory"] == PROGRAM / 1e6
    assert weights == pytest.approx(4 * total / 1e6, abs=0.06) and gradients == pytest.approx(
        4 * trained / 1e6, abs=0.06
    )
    assert slots == pytest.approx(2 * gradients, abs=0.16)  # AdamW's two moments
    rows = re.findall(r"^(\S.*?) +([\d.]+) +([\d.]+)$", sections["GFLOPs per image"], re.MULTILINE)
    assert {"backbone", "neck", "rpn", "box heads", "total"} <= {name for name, _, _ in rows}
    assert re.search(r"images +\[2, 64, 64, 3\] +uint8", sections["first batch"])


def test_the_length_of_a_training(tiny_data):
    """Six images in batches of two: an epoch has three steps."""
    records = tiny_data.records
    experiment, _ = config.load([TINY], ["STEPS=12", "EVALUATE_EVERY=5", "CHECKPOINT_EVERY=3"])
    experiment.optimizer = SGD(StepSchedule(base=4e-3, batch_size=2, steps=12, warmup_steps=2))
    info = load_info(records)
    assert length_lines(experiment, info, info) == [
        f"records        6 images of {records}",
        "epoch          3 steps of 2 images",
        "training       12 steps (4 epochs)",
        "learning rate  0.0005 after 2 steps of warm-up, 5e-05 after 8 steps (2.67 epochs), "
        "5e-06 after 11 steps (3.67 epochs), 5e-06 in the last step",
        f"evaluations    every 5 steps (1.67 epochs), 3 in all, each on 6 images of {records}",
        "checkpoints    every 3 steps (1 epoch), 4 in all; the newest 3 are kept",
    ]
    experiment, _ = config.load([TINY], ["STEPS=0", "CHECKPOINT_EVERY=0"])
    assert [line.split("  ")[-1].strip() for line in length_lines(experiment, info, None)[2:]] == [
        *("0 steps (0 epochs)", "none", "none", "after the last step; the newest 3 are kept"),
    ]


def test_a_configuration_that_does_not_fit_is_refused_first(tiny_data):
    experiment, resolved = config.load([TINY], ["NUM_CLASSES=7"])
    with pytest.raises(UserError, match="NUM_CLASSES = 7"):
        dry_run(experiment, resolved, tiny_data.records)


def test_the_classes_of_a_run_must_be_those_of_the_records(tiny_data, tmp_path):
    experiment, resolved = config.load([TINY], [])
    run = Run(tmp_path / "run")
    run.create("", [{"id": 1, "name": "dog"}])
    with pytest.raises(UserError, match="1 classes, but NUM_CLASSES"):
        dry_run(experiment, resolved, tiny_data.records, run=run)


@pytest.mark.parametrize(
    ("params", "devices", "words"),
    [
        (["BATCH_SIZE=3", "ACCUMULATE=2"], None, "BATCH_SIZE = 3 is not a multiple of ACCUMULATE = 2"),
        ([], ["GPU:7"], "--devices GPU:7: no such device"),
    ],
)
def test_devices_that_do_not_fit_are_refused_as_in_training(tiny_data, params, devices, words):
    experiment, resolved = config.load([TINY], params, train_records=tiny_data.records)
    with pytest.raises(UserError, match=words):
        dry_run(experiment, resolved, tiny_data.records, devices=devices)
