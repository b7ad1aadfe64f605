"""Devices and workers: reading TF_CONFIG, and two workers that train as one process."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import cluster
from htc_tf.cluster import (
    Cluster,
    check_batch,
    check_same,
    check_same_step,
    choose_communication,
    make_agreement,
    make_strategy,
    read_cluster,
)
from htc_tf.errors import UserError
from tests.slow import slow

TWO = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
WITH_CHIEF = {"cluster": {"chief": ["a:1"], "worker": ["b:2"]}, "task": {"type": "worker", "index": 0}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", Cluster(0, 1, True)),
        (json.dumps(TWO), Cluster(1, 2, False)),
        (json.dumps(WITH_CHIEF), Cluster(1, 2, False)),
        (json.dumps({**WITH_CHIEF, "task": {"type": "chief", "index": 0}}), Cluster(0, 2, True)),
    ],
)
def test_the_rank_among_the_workers(monkeypatch, content, expected):
    monkeypatch.setenv("TF_CONFIG", content)
    assert read_cluster() == expected


@pytest.mark.parametrize("content", ["", " "])
def test_an_empty_tf_config_is_none(monkeypatch, content):
    """TensorFlow itself would read it, and fail."""
    monkeypatch.setenv("TF_CONFIG", content)
    cluster = read_cluster()
    assert cluster == Cluster(0, 1, True)
    assert make_strategy(None, cluster).num_replicas_in_sync >= 1


@pytest.mark.parametrize("content", ["{", "[]", '{"cluster": {}}', json.dumps({**TWO, "task": {"index": 0}}), "3"])
def test_a_wrong_tf_config_is_an_error(monkeypatch, content):
    monkeypatch.setenv("TF_CONFIG", content)
    with pytest.raises(UserError, match=r"TF_CONFIG = .* does not describe"):
        read_cluster()


def test_devices_and_batches_that_do_not_fit():
    with pytest.raises(UserError, match="--devices is for one machine"):
        make_strategy(["GPU:0"], Cluster(0, 2))
    with pytest.raises(UserError, match=r"--devices GPU:9.*CPU:0"):
        make_strategy(["GPU:9"], Cluster())
    with pytest.raises(UserError, match=r"--devices names CPU:0 2 times"):
        make_strategy(["CPU:0", "cpu:0"], Cluster())
    check_batch(8, accumulate=2, replicas=4)
    with pytest.raises(UserError, match=r"BATCH_SIZE = 8 is not a multiple of the 3 devices$"):
        check_batch(8, accumulate=1, replicas=3)
    with pytest.raises(UserError, match=r"BATCH_SIZE = 8 .* 2 devices x ACCUMULATE = 8"):
        check_batch(8, accumulate=8, replicas=2)


@pytest.mark.parametrize(("gpus", "expected"), [(["GPU:0"], "NCCL"), ([], "RING")])
def test_workers_with_gpus_use_nccl(monkeypatch, gpus, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    assert choose_communication().implementation.value == expected


def test_agreement_of_a_single_worker():
    agree = make_agreement(None, Cluster())
    assert agree(True) is True and agree(False) is False


def test_workers_that_differ_end_before_they_wait_for_each_other(monkeypatch):
    """Two workers with a device each; the sums over both are computed here."""
    strategy, sums, other = SimpleNamespace(num_replicas_in_sync=2), [], {"configuration": "A = 2", "--seed": 0}

    def add(value):
        sums.append(value)
        return sums[0] + value

    monkeypatch.setattr(cluster, "_make_sum", lambda strategy: add)
    check_same(strategy, Cluster(0, 2), other)
    check_same(strategy, Cluster(1, 2), dict(other))
    with pytest.raises(UserError, match=r"^the workers differ in configuration: start the same command"):
        check_same(strategy, Cluster(1, 2), {**other, "configuration": "A = 1"})
    monkeypatch.setattr(cluster, "_read_code", lambda: "other")
    with pytest.raises(UserError, match="differ in --seed, the code of htc_tf: "):
        check_same(strategy, Cluster(1, 2), {**other, "--seed": 1})
    check_same(None, Cluster(), other)
    # The sums of a checkpoint's step, after that of step 4 on the other worker.
    monkeypatch.undo()
    sums.clear()
    monkeypatch.setattr(cluster, "_make_sum", lambda strategy: add)
    check_same_step(strategy, Cluster(0, 2), 4)
    check_same_step(strategy, Cluster(1, 2), 4)
    with pytest.raises(UserError, match=r"newest checkpoint, .* step 6: --workdir must be on storage that all share"):
        check_same_step(strategy, Cluster(1, 2), 6)
    check_same_step(None, Cluster(), 6)


# No randomness and no batch statistics: these depend on the number of images per worker.
PARAMS = ("NUM_STAGES=1", "MASKS=False", "SEMANTIC=False", "ResNet.norm='layer'", "RoISampler.limit=8")
PARAMS += ("AnchorSampler.limit=8", "STEPS=2", "WARMUP_STEPS=0", "BASE_LEARNING_RATE=3.2")


@pytest.mark.parametrize("network", ["toy", *slow("detector")])
def test_two_workers_train_as_one_process(run_workers, tiny_data, tmp_path, network):
    command = ["tests/cluster_worker.py", 0, network, "--gin_file", "tests/tiny.gin", "--backbone_weights", "none"]
    command += [word for param in PARAMS for word in ("--gin_param", param)]
    command += ["--train_records", tiny_data.records, "--workdir"]
    run_workers(*([*command, tmp_path / name] for name in ("one", "two")))
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [record["step"] for record in two] == [1, 2] and one[1]["total"] != one[0]["total"]
    for a, b in zip(one, two, strict=True):
        for name in a.keys() - {"images_per_second", "input_wait"}:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6, err_msg=name)
    # Only the chief leaves files.
    assert len(list((tmp_path / "two").glob("events.*"))) == 1
    assert [path.name for path in (tmp_path / "two" / "checkpoints").glob("*.index")] == ["ckpt-2.index"]
