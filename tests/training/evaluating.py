"""Evaluates a small untrained network on 1, 2 and 4 logical devices, or as one of the workers of TF_CONFIG.

`test_validation` starts it in a process of its own, since devices and workers are fixed once TensorFlow has started:
python evaluating.py RECORDS FOLDER NETWORK writes FOLDER/NAME.json, [metrics, results, losses], for each number of
devices, or on the chief for all workers together. NETWORK is "toy" or "detector".
"""

import contextlib
import json
import sys
from pathlib import Path

from htc_tf import config
from htc_tf.cluster import divide_cpu, make_agreement, make_strategy, read_cluster
from htc_tf.data.datasets import load_info
from htc_tf.evaluation.records import Interrupted, evaluate_records
from htc_tf.training.validation import Validation
from tests import toy_detector
from tests.eagerly import run_eagerly

NAMES = ("1 traced", "1", "2", "4")
TINY = str(Path(__file__).resolve().parents[1] / "tiny.gin")


def main(records, folder, network):
    cluster = read_cluster()
    experiment, _ = config.load([TINY], ["NUM_STAGES=1", "SEMANTIC=False", "eval/Input.batch_size=1"])
    if network == "toy":
        toy_detector.use(experiment)
    experiment.prepare_runtime(seed=0)
    divide_cpu(["CPU:3"])
    if cluster.workers > 1:
        strategies = {"workers": make_strategy(None, cluster)}
    else:
        strategies = {name: make_strategy([f"CPU:{i}" for i in range(int(name[0]))], cluster) for name in NAMES}
    model = experiment.build_model()
    model.build_variables()
    for name, strategy in strategies.items():
        # Tracing for 1, 2 and 4 devices would take longer than the run. Workers need functions for their collectives,
        # and a traced function may differ from an eager one in the last bit.
        with run_eagerly() if name in "124" else contextlib.nullcontext():
            evaluate(name, strategy, model, experiment, cluster, records, folder)


def evaluate(name, strategy, model, experiment, cluster, records, folder):
    agree = make_agreement(strategy, cluster)
    validation = Validation(experiment, load_info(records), False, strategy, cluster, agree)
    validation.copy_weights(model)
    losses = validation.losses.compute()
    evaluated = evaluate_records(validation.detector, validation.info, workers=validation.workers)
    if cluster.chief:
        Path(folder, f"{name}.json").write_text(json.dumps([*evaluated[:2], losses]))
    else:
        assert evaluated is None
    # A stop request of any worker stops all of them.
    validation.workers.stop = cluster.worker == cluster.workers - 1
    try:
        validation.evaluate()
    except Interrupted:
        return
    raise AssertionError("was not interrupted")


if __name__ == "__main__":
    main(*sys.argv[1:])
