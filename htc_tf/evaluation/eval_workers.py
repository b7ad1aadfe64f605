"""The workers of a training that share its evaluations: each detects in its part of the records, the chief counts.

Before: `training.validation` makes it of the training's cluster. After: `inference.detector` asks it whose part is whose.
Everywhere else one process does all, and the crew is its default. All workers take the same steps, so that none waits
for another that has left.
"""

import json
import zlib

import numpy as np
import tensorflow as tf

from htc_tf.cluster import Cluster


class Crew:
    """One worker among those that evaluate together."""

    def __init__(self, cluster=None, strategy=None, agree=bool, stop=False):
        """
        Args:
            cluster: which of the workers this is; the only one if None.
            strategy: the training's, by which workers reach each other; not needed by a single one.
            agree: bool -> whether any worker said True, as of `devices.make_agreement`.
            stop: true when this worker is to end early.
        """
        self.worker, self.workers, self.chief = cluster or Cluster()
        self.strategy, self.agree, self.stop = strategy, agree, stop

    def stopped(self):
        """Whether any worker is to end early. All of them ask, at the same steps."""
        return self.agree(self.stop)

    def gather(self, part):
        """What json can write, of each worker -> the list of all workers' parts, in their order, on each."""
        if self.workers == 1:
            return [part]
        packed = zlib.compress(json.dumps(part).encode(), 1)
        # Integers of four bytes, which NCCL can carry; the first says how many bytes follow.
        packed = len(packed).to_bytes(4, "little") + packed + bytes(-len(packed) % 4)
        numbers, local = np.frombuffer(packed, np.int32), self.strategy.num_replicas_in_sync // self.workers

        def give(context):
            first = context.replica_id_in_sync_group % local == 0
            return tf.constant(numbers if first else numbers[:0])

        parts = self.strategy.experimental_distribute_values_from_function(give)
        packed = self.strategy.gather(parts, axis=0).numpy().tobytes()
        gathered = []
        while packed:
            size = int.from_bytes(packed[:4], "little")
            gathered.append(json.loads(zlib.decompress(packed[4 : 4 + size])))
            packed = packed[4 + size + -size % 4 :]
        return gathered


ALONE = Crew()
