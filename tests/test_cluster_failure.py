"""Three workers that train as one: if one is killed, all of them end, and all continue when started again."""

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from htc_tf.training.stop import STOPPED
from tests import forks
from tests.slow import slow

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 3
SAVED, KILLED, STEPS = 3, 5, 6  # steps: the checkpoint, the last one of the killed worker, the last one of the training
LIMIT = 600  # seconds for all workers, which need half a minute on a computer that is not busy
PARAMS = (
    *("NUM_STAGES=1", "MASKS=False", "SEMANTIC=False", "ResNet.norm='layer'", "RoISampler.limit=8"),
    *("AnchorSampler.limit=8", f"BATCH_SIZE={WORKERS}", f"STEPS={STEPS}", f"CHECKPOINT_EVERY={SAVED}"),
    "DETERMINISTIC=True",
)


def run(records, folder, free_addresses, network, last_step=0):
    """Returns the exit statuses and the standard errors of the workers; worker 1 is killed after `last_step`."""
    words = ["--gin_file", "tests/tiny.gin", *(word for param in PARAMS for word in ("--gin_param", param))]
    words += ["--train_records", str(records), "--workdir", str(folder), "--backbone_weights", "none"]
    addresses = free_addresses(WORKERS)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    processes, logs = [], [folder.parent / f"{last_step}-{index}.log" for index in range(WORKERS)]
    try:
        for index, log in enumerate(logs):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            program = ["tests/cluster_worker.py", last_step if index == 1 else 0, network, *words]
            environment["TF_CONFIG"] = json.dumps(task)
            processes.append(forks.start(*program, env=environment, stderr=log))
        end = time.monotonic() + LIMIT
        return [process.wait(max(1, end - time.monotonic())) for process in processes], [
            log.read_text() for log in logs
        ]
    finally:
        for process in processes:
            process.kill()


def read_losses(folder):
    """Returns {step: {name: number}} without the times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: {k: v for k, v in row.items() if k not in ("images_per_second", "input_wait")} for row in rows}


@pytest.mark.timeout(2 * LIMIT + 100)
@pytest.mark.parametrize("network", ["toy", *slow("detector")])
def test_all_workers_end_and_go_on(tiny_data, tmp_path, free_addresses, network):
    folder = tmp_path / "run"
    statuses, errors = run(tiny_data.records, folder, free_addresses, network, last_step=KILLED)
    assert statuses == [STOPPED, -9, STOPPED], errors
    for text in (errors[0], errors[2]):
        assert len(re.findall(r"^error: another of the 3 workers has ended", text, re.M)) == 1
        assert "Traceback" not in text
    before = read_losses(folder)
    assert SAVED < max(before) <= KILLED + 1
    statuses, errors = run(tiny_data.records, folder, free_addresses, network)
    assert statuses == [0] * WORKERS, errors
    after = read_losses(folder)
    assert list(after) == list(range(1, STEPS + 1))
    for step in range(SAVED + 1, max(before) + 1):  # computed twice: without an interruption, and after the restart
        assert after[step].keys() == before[step].keys()
        for name, value in before[step].items():
            np.testing.assert_array_equal(after[step][name], value, err_msg=f"step {step}, {name}")
