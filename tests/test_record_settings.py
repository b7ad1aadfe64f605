"""Settings that the records decide: length in epochs, evaluations, classes and branches."""

import dataclasses

import pytest

from htc_tf import config
from htc_tf.data.datasets import Category, DatasetInfo, Shard, Stuff
from htc_tf.errors import UserError
from htc_tf.record_settings import decide, describe, steps_per_epoch
from htc_tf.run import Run
from htc_tf.training.checks import load_records

TINY = "tests/tiny.gin"
FIT = "Experiment.fit_to_records=True"
INFO = DatasetInfo(
    folder="records/train",
    categories=(Category(1, "cup"), Category(5, "fork"), Category(7, "plate")),
    stuff=Stuff(present=False, labels=0),
    masks=True,
    images=150,
    objects=400,
    crowd=0,
    shards=(Shard("a", 100, 0, ""), Shard("b", 50, 0, "")),
)
BOUND = {"Experiment.batch_size": 2, "NUM_CLASSES": 80, "NUM_LABELS": 183, "SEMANTIC": True, "MASKS": True}
BOUND |= {"EPOCHS": 12, "STEPS": None, "CHECKPOINT_EVERY": 1000, "EVALUATE_EVERY": None}


def changes(bound, info=INFO, validates=False):
    return decide(BOUND | bound, info, validates)[0]


@pytest.mark.parametrize("records, batch_size, steps", [(150, 2, 75), (151, 2, 76), (1, 16, 1), (118287, 16, 7393)])
def test_an_epoch_is_rounded_up_to_whole_batches(records, batch_size, steps):
    assert steps_per_epoch(records, batch_size) == steps


@pytest.mark.parametrize("epochs, steps", [(12, 900), (4.5, 338), (1 / 3, 25), (1e-6, 1)])
def test_epochs_become_steps(epochs, steps):
    assert changes({"EPOCHS": epochs}) == {"EPOCHS": None, "STEPS": steps, "EVALUATE_EVERY": 0}


def test_intervals_become_steps():
    length = {"EPOCHS": None, "STEPS": 7}
    assert changes(length, validates=True) == {"EVALUATE_EVERY": 75}
    assert changes(length | {"EVALUATE_EVERY": 0}, validates=True) == {}
    assert changes(length | {"EVALUATE_EVERY": 10, "CHECKPOINT_EVERY": "epoch"}) == {"CHECKPOINT_EVERY": 75}
    assert changes(length | {"EVALUATE_EVERY": "epoch"}) == {"EVALUATE_EVERY": 75}  # refused before step 1


def test_classes_and_branches_follow_the_records_only_if_asked():
    fixed = {"EPOCHS": None, "STEPS": 7, "EVALUATE_EVERY": 0}
    assert changes(fixed) == {}
    fit = fixed | {"Experiment.fit_to_records": True}
    assert changes(fit) == {"NUM_CLASSES": 3, "SEMANTIC": False}
    boxes = dataclasses.replace(INFO, masks=False, stuff=Stuff(True, 9))
    assert changes(fit | {"Experiment.keep_best": "segm/AP50"}, boxes) == {
        **{"NUM_CLASSES": 3, "NUM_LABELS": 9, "MASKS": False},
        "Experiment.keep_best": "bbox/AP50",
    }
    assert changes(fit | {"NUM_CLASSES": 3, "SEMANTIC": False}) == {}
    unbound = {name: value for name, value in BOUND.items() if name != "NUM_CLASSES"} | fixed
    assert decide(unbound, INFO, False)[0] == {"NUM_CLASSES": 3}
    assert changes(fit, dataclasses.replace(INFO, categories=()))["SEMANTIC"] is False  # the classes are refused later


def test_one_line_describes_what_the_records_decided():
    found = decide(BOUND | {"Experiment.fit_to_records": True}, INFO, True)
    assert describe(*found, INFO.folder) == (
        "from records/train: NUM_CLASSES = 3, STEPS = 900 (12 epochs of 75 steps), EVALUATE_EVERY = 75, "
        "SEMANTIC = False (no stuff maps)"
    )
    found = decide(BOUND | {"EPOCHS": 1}, INFO, False)
    assert describe(*found, INFO.folder) == "from records/train: STEPS = 75 (1 epoch of 75 steps)"
    found = decide(BOUND | {"Experiment.batch_size": 150}, INFO, False)
    assert describe(*found, INFO.folder) == "from records/train: STEPS = 12 (12 epochs of 1 step)"
    assert describe({}, {}, "x") == describe({"EVALUATE_EVERY": 0}, {}, "x") == ""


# The six scenes of `tiny_data` in batches of 2 make epochs of 3 steps.


def test_a_resolved_configuration_holds_plain_numbers(tiny_data, tmp_path, capsys):
    params = ["EPOCHS=1.5", "EVALUATE_EVERY=None", "CHECKPOINT_EVERY='epoch'"]
    experiment, resolved = config.load([TINY], params, train_records=tiny_data.records, val_records="val")
    assert (experiment.steps, experiment.epochs) == (4, None)
    assert (experiment.evaluate_every, experiment.checkpoint_every) == (3, 3)
    assert experiment.optimizer.schedule.steps == 4
    for line in ("EPOCHS = None", "STEPS = 4", "EVALUATE_EVERY = 3", "CHECKPOINT_EVERY = 3"):
        assert f"\n{line}\n" in resolved
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"from {tiny_data.records}: STEPS = 4 (1.5 epochs of 3 steps), CHECKPOINT_EVERY = 3, EVALUATE_EVERY = 3"
    )
    run = Run(tmp_path)
    run.create(resolved, [])
    again, text = config.load([], [], run)
    assert text == resolved and again.steps == 4
    assert config.load([], ["STEPS=9"], run)[0].steps == 9
    assert config.load([], ["EPOCHS=2"], run)[0].epochs == 2
    assert not capsys.readouterr().out


def test_without_records_the_length_in_epochs_stays_open(tiny_data):
    experiment, resolved = config.load([TINY], ["EPOCHS=2"])
    assert (experiment.steps, experiment.epochs) == (None, 2)
    assert "EPOCHS = 2\n" in resolved and "STEPS = None\n" in resolved
    with pytest.raises(UserError, match=r"CosineSchedule\.steps is unknown: set STEPS"):
        experiment.optimizer.schedule(0)
    assert experiment.build_model() is not None


def test_classes_that_nothing_binds_come_from_the_records(tiny_data, tmp_path):
    own = tmp_path / "own.gin"
    lines = (line for line in config.load([TINY], [])[1].splitlines() if not line.startswith("NUM_CLASSES"))
    own.write_text("\n".join(lines))
    experiment, resolved = config.load([own], [], train_records=tiny_data.records)
    assert experiment.num_classes == 8 and "NUM_CLASSES = 8\n" in resolved
    with pytest.raises(UserError, match=r"NUM_CLASSES is not set.* add --gin_param NUM_CLASSES=N"):
        config.load([own], [])
    assert config.load([own], ["NUM_CLASSES=5"])[0].num_classes == 5


def test_fit_to_records(tiny_data, tmp_path, capsys):
    from htc_tf.data.synthetic import write_records

    experiment, _ = config.load([TINY], [FIT, "NUM_CLASSES=80", "NUM_LABELS=99"], train_records=tiny_data.records)
    assert experiment.num_classes == 8 and experiment.build_model().semantic_head.num_labels == 13
    load_records(experiment, tiny_data.records, None)
    write_records(tmp_path, 4, classes=5, objects=2, sizes=[(64, 64)])
    info = config.load([TINY], [FIT], train_records=tmp_path)[0].load_info(tmp_path)
    assert info.num_classes == 5


@pytest.mark.parametrize("fit", [False, True])
def test_records_without_stuff_maps_or_masks(tiny_data, tmp_path, capsys, fit):
    from pipelines import coco_to_tfrecord

    records = tmp_path / "records"
    flags = {"annotations": tiny_data.annotations, "images": tiny_data.images, "output": records}
    coco_to_tfrecord.main([f"--{name}={value}" for name, value in flags.items()])
    capsys.readouterr()
    experiment, resolved = config.load([TINY], [f"Experiment.fit_to_records={fit}"], train_records=records)
    if not fit:
        with pytest.raises(UserError, match=r"no stuff maps.*gin/options/no_semantic\.gin"):
            load_records(experiment, records, None)
        return
    assert capsys.readouterr().out == f"from {records}: SEMANTIC = False (no stuff maps)\n"
    load_records(experiment, records, None)
    assert experiment.build_model().semantic_head is None and "SEMANTIC = False\n" in resolved
    # A configuration without the macro cannot be fitted: the error names the override.
    own = tmp_path / "own.gin"
    text = config.load([TINY], [])[1].replace("HTC.semantic = %SEMANTIC", "HTC.semantic = True")
    own.write_text(text.replace("SEMANTIC = True\n", "", 1))
    experiment, _ = config.load([own], [FIT], train_records=records)
    with pytest.raises(UserError, match=r"no stuff maps.*gin/options/no_semantic\.gin"):
        load_records(experiment, records, None)


def test_macros_without_effect_are_not_told(tiny_data, capsys):
    params = ["Experiment.evaluate_every=5", "HTC.semantic=False", "STEPS=3"]
    experiment, _ = config.load(["gin/htc_r50_fpn_1x_coco.gin"], params, None, False, tiny_data.records, "val")
    assert experiment.evaluate_every == 5 and not capsys.readouterr().out


@pytest.mark.parametrize(
    "param, words",
    [
        ("EPOCHS=0", "EPOCHS = 0: must be a number, more than 0"),
        ("EPOCHS='12'", "EPOCHS = '12': must be"),
        ("EPOCHS=1e999", "EPOCHS = inf: must be"),
        ("EPOCHS=1e9", r"EPOCHS = 1000000000\.0, so STEPS = 3000000000: must be"),
        ("EVALUATE_EVERY='epochs'", "EVALUATE_EVERY = 'epochs': must be a whole number, .* or one of 'epoch', None"),
        ("CHECKPOINT_EVERY=None", "CHECKPOINT_EVERY = None: must be"),
        ("BATCH_SIZE=0", "BATCH_SIZE = 0: must be"),
        ("EPOCHS=%EPOCHS", "a value is nested too deeply"),
        ("Experiment.batch_size=0", r"Experiment\.batch_size = 0: must be"),
        ("Experiment.fit_to_records=1", r"Experiment\.fit_to_records = 1: must be"),
        ("BACKBONE_WEIGHTS=50", "BACKBONE_WEIGHTS = 50: must be a string, or None"),
    ],
)
def test_values_out_of_range_are_refused(tiny_data, param, words):
    with pytest.raises(UserError, match=words):
        config.load([TINY], [param], train_records=tiny_data.records)


def test_missing_records_are_named_first(tmp_path):
    with pytest.raises(UserError, match="no such folder of records"):
        config.load([TINY], [], train_records=tmp_path / "nowhere")
