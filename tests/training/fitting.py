"""Trains a KerasModel on two logical devices, and compares it with `train` on two and a KerasModel on one.

`test_keras_model` starts it in a process of its own, since devices are fixed once TensorFlow has started:
python fitting.py RECORDS FOLDER NETWORK writes FOLDER/fitting.json, {name: [value on two devices, expected value]}.
NETWORK is "toy" or "detector".
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np

from htc_tf import config
from htc_tf.checkpoint import restore_weights
from htc_tf.cluster import divide_cpu, make_strategy, read_cluster
from htc_tf.run import Run
from htc_tf.training.keras_model import KerasModel
from htc_tf.training.trainer import train
from tests import toy_detector
from tests.eagerly import run_eagerly

TINY = str(Path(__file__).resolve().parents[1] / "tiny.gin")
DEVICES = ["CPU:0", "CPU:1"]
STEPS = 3
PARAMS = [f"STEPS={STEPS}", "NUM_STAGES=1", "MASKS=False", "SEMANTIC=False", "XLA=False", "EVALUATE_EVERY=0"]
PARAMS += [f"CHECKPOINT_EVERY={STEPS}"]  # saving makes the replicas' batch norm statistics equal


def load(network):
    experiment, resolved = config.load([TINY], PARAMS)
    if network == "toy":
        toy_detector.use(experiment, norm="batch")
    return experiment, resolved


def make(records, run, network):
    experiment, resolved = load(network)
    model = KerasModel(experiment, resolved, records, run.folder)
    model.compile()
    return model


def evaluate_and_predict(model, records, batch_size):
    """Returns the losses and the detections of all images, in batches of another size."""
    dataset = copy.copy(model.experiment.eval_input)
    dataset.batch_size = batch_size
    losses = model.evaluate(dataset.dataset(records, seed=0), return_dict=True, verbose=0)
    detections = model.predict(dataset.dataset(records, seed=0), verbose=0)
    return {
        **{f"evaluated {name}": value for name, value in losses.items()},
        **{f"predicted {name}": detections[name].tolist() for name in ("image_ids", "classes", "boxes", "scores")},
    }


def weights_of(model, run):
    """Returns the weights of a run's checkpoint, as arrays."""
    plain = model.experiment.build_model()
    plain.build_variables()
    restore_weights(run, plain)
    return [variable.numpy() for variable in plain.variables]


def main(records, folder, network):
    divide_cpu(DEVICES)
    fitted, trained = Run(Path(folder, "fitted")), Run(Path(folder, "trained"))
    with make_strategy(DEVICES, read_cluster()).scope():
        model = make(records, fitted, network)
    history = model.fit(model.train_dataset(), steps_per_epoch=1, epochs=STEPS, verbose=0).history
    model.save_run()
    if network == "toy":
        toy_detector.train(TINY, PARAMS, records, None, trained, norm="batch", seed=0, devices=DEVICES)
    else:
        train(*load(network), records, None, trained, seed=0, devices=DEVICES)
    logged = [json.loads(line) for line in trained.metrics.read_text().splitlines()]
    found = {name: [history[name], [row[name] for row in logged]] for name in history if name != "loss"}
    pairs = zip(weights_of(model, fitted), weights_of(model, trained), strict=True)
    found["differing weights"] = [[index for index, pair in enumerate(pairs) if not np.array_equal(*pair)], []]
    alone = make(records, fitted, network)  # of one device, from the saved run
    # RoIs are sampled by an image's place in the replica's batch, so each replica gets one image.
    two, one = evaluate_and_predict(model, records, len(DEVICES)), evaluate_and_predict(alone, records, 1)
    found |= {name: [two[name], one[name]] for name in two.keys() | one.keys()}
    found["replicas"] = [model.distribute_strategy.num_replicas_in_sync, 2]
    Path(folder, "fitting.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with run_eagerly():  # tracing eight functions for two devices takes minutes
        main(*sys.argv[1:])
