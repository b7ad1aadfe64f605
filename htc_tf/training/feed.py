"""The batches that a training is fed: each over all its devices; and any of them again, to see why it failed.

Before it: `data.input`. After it: `training.loop` takes them one by one, or hands them to a compiled loop.
"""

import numpy as np
import tensorflow as tf


def distribute(strategy, experiment, records, seed, start_step):
    """The batches, of each the part of each replica of this process; nothing else is decoded here."""

    def make_part(context):
        worker, workers, replicas = (
            context.input_pipeline_id,
            context.num_input_pipelines,
            context.num_replicas_in_sync,
        )
        return experiment.train_input.dataset(records, seed, start_step, worker, workers, replicas)

    return strategy.distribute_datasets_from_function(make_part)


def join_replicas(strategy, batch):
    """A distributed Batch -> the Batch of this process's replicas, as NumPy arrays."""

    def join(value):
        return np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])

    return tf.nest.map_structure(join, batch)


def read_batch(experiment, records, seed, start_step):
    """The global Batch that is learnt after so many steps, as NumPy arrays."""
    return next(experiment.train_input.dataset(records, seed, start_step=start_step).as_numpy_iterator())
