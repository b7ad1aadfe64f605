"""The dataset of a training: read directly by one replica on a CPU, else by TensorFlow's iterators of each device."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.training import loop


@pytest.mark.parametrize("gpu", [False, True])
def test_one_replica_gets_the_same_batches_either_way(tiny_experiment, tiny_data, monkeypatch, gpu):
    experiment = tiny_experiment()
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    monkeypatch.setattr(loop, "has_gpu", lambda: gpu)
    dataset = loop.distribute(strategy, experiment, str(tiny_data.records), 0, 1)
    assert isinstance(dataset, tf.distribute.DistributedDataset) == gpu
    (images,) = strategy.experimental_local_results(next(iter(dataset)).images)
    expected = loop.read_batch(experiment, str(tiny_data.records), 0, 1)
    np.testing.assert_array_equal(images, expected.images)


def test_one_replica_waits_for_no_tuning_at_the_end(tiny_experiment, tiny_data):
    """TensorFlow tunes the threads of its iterators of each device; their end may wait, up to a minute."""
    dataset = loop.distribute(tf.distribute.get_strategy(), tiny_experiment(), str(tiny_data.records), 0, 0)
    assert dataset.options().autotune.enabled is False
