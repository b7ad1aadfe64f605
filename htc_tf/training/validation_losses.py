"""Losses on the validation records: the training's losses, without training, beside the metrics of an evaluation.

Every loss is normalized over all images: the sum of its totals is divided by the sum of its counts. Images pass one by
one, each with the same random seed, so that no figure depends on the number of replicas and workers.
"""

import collections
import copy
import math

import tensorflow as tf

from htc_tf.data.input import named_errors
from htc_tf.evaluation.records import Interrupted
from htc_tf.models.htc_loss import Loss
from htc_tf.progress import progress_bar
from htc_tf.structures import IGNORED_LABEL

MAX_IMAGES = 500  # the first ones of the records; more would cost time and hardly change a loss
SEED = (0, 0)  # of the samplers


class ValidationLosses:
    """Computes the losses of a model's copy; nothing of it is updated."""

    def __init__(self, experiment, model, info, strategy, workers):
        """
        Args:
            experiment: Experiment; its objective and xla are used.
            model: HTC with variables, built under the strategy.
            info: DatasetInfo of the records.
            strategy: tf.distribute.Strategy of this worker alone.
            workers: Workers that share the images.
        """
        self.info, self.strategy, self.workers = info, strategy, workers
        self.images = min(info.records, MAX_IMAGES)
        self.input = copy.copy(experiment.eval_input)
        self.input.batch_size = 1

        losses = make_losses(experiment, model)
        self.losses = tf.function(lambda batch: strategy.run(losses, args=(batch,)), autograph=False)

    def compute(self):
        """Returns {name: float}, each loss and their `total`; without those that the records have no annotations for.

        Raises:
            Interrupted: A worker has to stop.
        """
        sums = collections.defaultdict(list)  # {name: [(total, count, weight) of each image]}
        images = -(-self.images // self.workers.count)
        with progress_bar(total=images, unit="img", desc="losses") as bar, named_errors(self.info.folder):
            for batches in self.read():
                for losses in self.losses_of(batches):
                    for name, loss in losses.items():
                        sums[name].append([float(value) for value in loss])
                bar.update(len(batches))
        sums = [part for part in self.workers.gather(sums) if part]  # a worker may have no image
        named = {name: normalize([row for part in sums for row in part[name]]) for name in sums[0] if self.known(name)}
        return {**named, "total": math.fsum(named.values())}

    def known(self, name):
        """Returns True unless the records have no annotations for this loss."""
        if name.endswith("semantic"):
            return self.info.stuff.present
        return self.info.masks or not name.endswith("_mask")

    def read(self):
        """Yields lists of Batches of one image and one padded shape, at most one Batch for each replica."""
        batches = self.input.dataset(self.info.folder, seed=0).take(self.images)
        batches = iter(batches.shard(self.workers.count, self.workers.index))
        waiting = collections.defaultdict(list)  # by padded shape
        for _ in range(-(-self.images // self.workers.count)):
            if self.workers.stopped():
                raise Interrupted
            batch = next(batches, None)
            if batch is None:  # the last workers may have one image less
                break
            shape = tuple(batch.images.shape)
            waiting[shape].append(batch)
            if len(waiting[shape]) == self.strategy.num_replicas_in_sync:
                yield waiting.pop(shape)
        yield from waiting.values()

    def losses_of(self, batches):
        """Returns the {name: Loss} of each Batch; a replica without one repeats the last."""

        def place(context):
            return batches[min(context.replica_id_in_sync_group, len(batches) - 1)]

        placed = self.strategy.experimental_distribute_values_from_function(place)
        per_replica = {
            name: zip(*map(self.strategy.experimental_local_results, loss), strict=True)
            for name, loss in self.losses(placed).items()
        }
        rows = [dict(zip(per_replica, row, strict=True)) for row in zip(*per_replica.values(), strict=True)]
        return rows[: len(batches)]


def make_losses(experiment, model):
    """Returns a compiled function from a Batch to its {name: Loss}, by which nothing is updated; one replica's part."""

    def losses(batch):
        truth, head = batch.truth, model.semantic_head
        if head is not None:  # labels that the network lacks are ignored
            known = truth.semantic < head.num_labels
            truth = truth._replace(semantic=tf.where(known, truth.semantic, IGNORED_LABEL))
        outputs = model(batch.images, batch.sizes, truth, tf.constant(SEED), validate=True)
        named = experiment.objective(outputs, truth, batch.sizes, tf.constant(SEED))
        return {name: Loss(*map(tf.convert_to_tensor, loss)) for name, loss in named.items()}

    # XLA compiles the function of each replica, as in `inference.detector`.
    return tf.function(losses, jit_compile=experiment.xla, autograph=False)


def normalize(rows):
    """Returns the loss of (total, count, weight) rows. Exact sums do not depend on the order of the images."""
    totals, counts, weights = zip(*rows, strict=True)
    return weights[0] * math.fsum(totals) / max(math.fsum(counts), 1.0)
