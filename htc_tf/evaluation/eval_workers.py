"""Evaluation workers: the processes of a distributed training that share an evaluation.

Each worker detects in its part of the records and the chief computes the metrics. All workers run the same number of
steps, so none waits for another that has stopped. Outside training a single process does everything: SINGLE.
"""

import json
import zlib

import numpy as np
import tensorflow as tf

from htc_tf.cluster import Cluster


class Workers:
    """This process among those that evaluate together."""

    def __init__(self, cluster=None, strategy=None, agree=bool, stop=False):
        """
        Args:
            cluster: Cluster, this process among the workers; None for a single one.
            strategy: tf.distribute.Strategy that connects the workers; not needed for a single one.
            agree: Function of a bool, True if any worker calls it with True; from `cluster.make_agreement`.
            stop: Object that is true once this worker must stop early.
        """
        self.index, self.count, self.chief = cluster or Cluster()
        self.strategy, self.agree, self.stop = strategy, agree, stop

    def stopped(self):
        """Returns True on all workers if any of them must stop early. All must call it at the same steps."""
        return self.agree(self.stop)

    def gather(self, part):
        """Returns, on each worker, the list of all workers' parts in their order. A part is any JSON value."""
        if self.count == 1:
            return [part]
        packed = zlib.compress(json.dumps(part).encode(), 1)
        # NCCL transfers int32, not bytes: the length in four bytes, the content, zeros up to a multiple of four.
        packed = len(packed).to_bytes(4, "little") + packed + bytes(-len(packed) % 4)
        numbers, local = np.frombuffer(packed, np.int32), self.strategy.num_replicas_in_sync // self.count

        def value(context):  # each worker's first replica has the content, its others nothing
            first = context.replica_id_in_sync_group % local == 0
            return tf.constant(numbers if first else numbers[:0])

        parts = self.strategy.experimental_distribute_values_from_function(value)
        packed = self.strategy.gather(parts, axis=0).numpy().tobytes()
        gathered = []
        while packed:
            size = int.from_bytes(packed[:4], "little")
            gathered.append(json.loads(zlib.decompress(packed[4 : 4 + size])))
            packed = packed[4 + size + -size % 4 :]
        return gathered


SINGLE = Workers()
