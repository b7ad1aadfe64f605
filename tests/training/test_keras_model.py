"""Keras' own way: `fit` equals `train`, `evaluate` the validation losses, `predict` the detector; weights are kept."""

import copy
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.checkpoint import Checkpoints, restore_weights
from htc_tf.data.datasets import load_info
from htc_tf.errors import UserError
from htc_tf.evaluation.eval_workers import Workers
from htc_tf.inference.detector import Detector, restore
from htc_tf.run import Run
from htc_tf.training.keras_model import KerasModel
from htc_tf.training.trainer import train
from htc_tf.training.validation_losses import ValidationLosses
from tests import forks, toy_detector
from tests.slow import slow

ROOT = Path(__file__).resolve().parents[2]
TINY = str(ROOT / "tests" / "tiny.gin")
STEPS = 4
PARAMS = [f"STEPS={STEPS}", "NUM_STAGES=1", "XLA=False", "EVALUATE_EVERY=0"]
LOSSES = {"toy": {*toy_detector.LOSSES}, "detector": {"rpn_class", "rpn_box", "stage1_class", "stage1_box"}}


@pytest.fixture(scope="module", params=["toy", *slow("detector")])
def network(request):
    return request.param


def load(network, *params):
    experiment, resolved = config.load([TINY], [*PARAMS, *params])
    if network == "toy":
        toy_detector.use(experiment, norm="batch")
    return experiment, resolved


def make(network, tiny_data, workdir, *params, **options):
    return KerasModel(*load(network, *params), tiny_data.records, workdir, **options)


def values(model):
    return [variable.numpy() for variable in model.variables]


def differing(these, those):
    return [index for index, pair in enumerate(zip(these, those, strict=True)) if not np.array_equal(*pair)]


@pytest.fixture(scope="module")
def fitted(network, tiny_data, tmp_path_factory):
    """A KerasModel after four epochs of one step, with its history, callbacks' files and saved run."""
    folder = tmp_path_factory.mktemp("keras")
    model = make(network, tiny_data, folder / "run")
    model.compile()
    callbacks = [
        tf.keras.callbacks.ModelCheckpoint(str(folder / "weights"), monitor="loss", save_weights_only=True),
        tf.keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=STEPS),
        tf.keras.callbacks.TensorBoard(str(folder / "events"), update_freq=1),
    ]
    history = model.fit(model.train_dataset(), steps_per_epoch=1, epochs=STEPS, callbacks=callbacks, verbose=0)
    model.save_run()
    return SimpleNamespace(model=model, history=history.history, folder=folder)


def test_fit_has_the_losses_and_weights_of_train(network, fitted, tiny_data, tmp_path):
    run = Run(tmp_path / "run")
    if network == "toy":
        toy_detector.train(TINY, PARAMS, tiny_data.records, None, run, norm="batch", seed=0)
    else:
        train(*load(network), tiny_data.records, None, run, seed=0)
    logged = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    names = set(fitted.history) - {"loss"}
    assert len(logged) == STEPS and names >= LOSSES[network]
    for name in names:
        assert fitted.history[name] == [row[name] for row in logged]
    np.testing.assert_allclose(fitted.history["loss"], [row["total"] for row in logged], rtol=1e-6)
    trained = load(network)[0].build_model()
    trained.build_variables()
    restore_weights(run, trained)
    assert not differing(values(trained), values(fitted.model.htc))
    # TensorBoard gets the graph of the compiled step.
    events = [event for path in run.folder.glob("events*") for event in tf.compat.v1.train.summary_iterator(str(path))]
    assert any(b"Conv2D" in event.graph_def for event in events)


def test_evaluate_has_the_validation_losses_of_train_and_updates_nothing(fitted, tiny_data, eagerly):
    before = values(fitted.model)
    one_by_one = copy.copy(fitted.model.experiment.eval_input)
    one_by_one.batch_size = 1
    found = fitted.model.evaluate(one_by_one.dataset(tiny_data.records, seed=0), return_dict=True, verbose=0)
    strategy, info = tf.distribute.get_strategy(), load_info(tiny_data.records)
    workers = Workers(None, strategy, bool, False)
    wanted = ValidationLosses(fitted.model.experiment, fitted.model.htc, info, strategy, workers).compute()
    wanted["loss"] = wanted.pop("total")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-5)
    assert not differing(before, values(fitted.model))


def test_predict_returns_the_detections_of_every_image(fitted, tiny_data, eagerly):
    dataset = fitted.model.experiment.eval_input.dataset(tiny_data.records, seed=0)
    found = fitted.model.predict(dataset, verbose=0)
    detector, start = Detector(fitted.model.htc, fitted.model.experiment), 0
    for batch in dataset:
        wanted = {"image_ids": batch.image_ids.numpy(), **detector.detect(batch.images, batch.sizes)._asdict()}
        wanted = {name: value for name, value in wanted.items() if name != "stage_masks" and value is not None}
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name][start : start + len(value)], value)
        start += len(batch.image_ids)
    assert len(found["boxes"]) == start > 2


def test_saved_weights_and_the_saved_run_hold_every_variable(network, fitted, tiny_data, tmp_path):
    fresh = make(network, tiny_data, tmp_path / "run", seed=5)
    fresh.compile()
    assert differing(values(fresh.htc), values(fitted.model.htc)) and not fresh.step
    fresh.load_weights(str(fitted.folder / "weights"))
    assert not differing(values(fresh), values(fitted.model))
    assert not differing(*([v.numpy() for v in part.optimizer.variables] for part in (fresh, fitted.model)))
    train_again = fitted.model.experiment.optimizer.build()
    train_again.build(fresh.htc.trainable_variables)
    Checkpoints(fitted.model.run, fresh.htc, train_again, step := tf.Variable(0, dtype=tf.int64)).restore_latest()
    assert int(step) == STEPS
    assert not differing(*([v.numpy() for v in part.variables] for part in (train_again, fitted.model.optimizer)))
    detector = restore(fitted.model.experiment, fitted.model.run)
    assert not differing(values(detector.model), values(fitted.model.htc))
    assert [row["name"] for row in Run(fitted.folder / "run").read_categories()] == [
        category.name for category in load_info(tiny_data.records).categories
    ]


def test_two_devices_have_the_numbers_of_train_and_of_one_device(network, tiny_data, tmp_path):
    """Built in a strategy's scope: `fit` as `train`, bit for bit; `evaluate` and `predict` as on one device."""
    words = [Path(__file__).with_name("fitting.py"), tiny_data.records, tmp_path, network]
    done = forks.run(*words, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "fitting.json").read_text())
    assert found.pop("replicas") == [2, 2] and found.pop("differing weights") == [[], []]
    assert found.keys() >= LOSSES[network] | {"evaluated loss", "predicted image_ids", "predicted boxes"}
    for name, (two, expected) in found.items():
        if name.startswith("evaluated"):
            assert two == pytest.approx(expected, rel=1e-5)
        elif name in ("predicted boxes", "predicted scores"):
            np.testing.assert_allclose(two, expected, rtol=1e-5, atol=1e-4)
        else:
            assert two == expected


def test_a_model_continues_from_its_run(network, fitted, tiny_data, capsys):
    model = make(network, tiny_data, fitted.folder / "run", seed=0)
    assert "resuming" in capsys.readouterr().out
    model.compile()
    assert int(model.step) == int(model.optimizer.iterations) == STEPS
    assert not differing(values(model.htc), values(fitted.model.htc))
    after = next(iter(fitted.model.experiment.train_input.dataset(tiny_data.records, 0, start_step=STEPS)))
    np.testing.assert_array_equal(next(iter(model.train_dataset())).image_ids, after.image_ids)


def test_a_keras_optimizer_and_its_rate_are_used(network, tiny_data, tmp_path, eagerly):
    model = make(network, tiny_data, tmp_path / "run", "MASKS=False", "SEMANTIC=False")
    model.compile(tf.keras.optimizers.SGD(0.0))
    before = [variable.numpy() for variable in model.trainable_variables]
    for rate, changes in ((0.0, False), (1e-3, True)):
        model.optimizer.learning_rate = rate
        model.fit(model.train_dataset(), steps_per_epoch=1, verbose=0)
        assert bool(differing(before, [variable.numpy() for variable in model.trainable_variables])) == changes
    assert int(model.optimizer.iterations) == 2
    found = model.predict(model.experiment.eval_input.dataset(tiny_data.records, seed=0).take(1), verbose=0)
    masks = {"masks"} if network == "toy" else set()  # which has them in any case
    assert {"image_ids", "boxes", "scores", "classes", "valid"} | masks == found.keys()


def test_what_a_keras_model_cannot_do_is_refused_in_one_line(network, fitted, tiny_data, tmp_path):
    with pytest.raises(UserError, match=r"ema_decay.*htc_tf\.train"):
        make(network, tiny_data, tmp_path / "run", "Experiment.ema_decay=0.9")
    with pytest.raises(UserError, match="NUM_CLASSES"):
        make(network, tiny_data, tmp_path / "run", "NUM_CLASSES=3")
    with pytest.raises(UserError, match="BATCH_SIZE = 3 is not a multiple"):
        make(network, tiny_data, tmp_path / "run", "BATCH_SIZE=3", "ACCUMULATE=2")
    with pytest.raises(UserError, match="size of the records"):
        make(network, tiny_data, tmp_path / "run", "CHECKPOINT_EVERY='epoch'")
    with pytest.raises(UserError, match=r"q\.weights\.h5.*without \.h5"):
        fitted.model.save_weights(str(tmp_path / "q.weights.h5"))
    with pytest.raises(UserError, match="save_run"):
        fitted.model.save(str(tmp_path / "q.keras"))
    other = copy.copy(fitted.model.experiment)
    model = make(network, tiny_data, tmp_path / "run")
    model.experiment = other
    other.optimizer = SimpleNamespace(build=tf.Module)
    with pytest.raises(UserError, match="choose SGD or AdamW"):
        model.compile()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["LearningRateScheduler", "ReduceLROnPlateau"])
def test_callbacks_of_the_rate_need_a_rate_of_their_own(tiny_data, tmp_path, kind):
    """The configuration's schedule sets the rate in each step, so they would have no effect."""
    callback = tf.keras.callbacks.LearningRateScheduler(lambda *_: 0.0)
    if kind == "ReduceLROnPlateau":
        callback = tf.keras.callbacks.ReduceLROnPlateau("loss", patience=0, factor=0.0, min_delta=100)
    model = make("toy", tiny_data, tmp_path / "run")
    model.compile()
    options = {"steps_per_epoch": 1, "epochs": 2, "verbose": 0, "callbacks": [callback]}
    with pytest.raises(UserError, match=f"{kind} .* compile"):
        model.fit(model.train_dataset(), **options)
    model.compile(tf.keras.optimizers.SGD(0.01))
    model.fit(model.train_dataset(), **options)
    assert float(model.optimizer.learning_rate) == 0.0


def test_an_optimizer_that_keras_cannot_use_is_named(tiny_data, tmp_path):
    model = make("toy", tiny_data, tmp_path / "run")
    with pytest.raises(UserError, match=r"Keras cannot use \S*legacy\S*SGD"):
        model.compile(tf.keras.optimizers.legacy.SGD())


def test_weights_older_than_the_run_are_not_saved(network, tiny_data, tmp_path):
    """All commands would read the newer ones."""
    model = make(network, tiny_data, tmp_path / "run")
    model.compile()
    for step in (3, 4, 4):
        model.step.assign(step)
        model.save_run()
    model.step.assign(2)
    with pytest.raises(UserError, match=r"run has a checkpoint of step 4, .* of step 2: move .*ckpt-4\.\* away"):
        model.save_run()
    assert {path.stem for path in (tmp_path / "run" / "checkpoints").glob("*.index")} == {"ckpt-3", "ckpt-4"}
