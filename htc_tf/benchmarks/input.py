"""Mode `input`: what a training sample costs from the record to the batch, with masks, semantic map and a flip.

Before it: `htc_tf.benchmark`. Each measurement is of about 20 images; reading, decoding and batching run ahead in
their threads all the while, as they do in training. The limit that it is held against is that of writing the batch.
"""

import contextlib
import tempfile

import tensorflow as tf

from htc_tf.benchmarks.drawn_records import write_records
from htc_tf.benchmarks.machine import Share, copy_rate
from htc_tf.benchmarks.measure import measure
from htc_tf.checkpoint import count_bytes
from htc_tf.data.augment import flip
from htc_tf.data.datasets import load_info
from htc_tf.data.input import Input, named_errors

IMAGES = 20
MAX_OBJECTS = 100


def run(work):
    """Work -> Measurement, of one image."""
    with contextlib.ExitStack() as stack:
        folder = work.records or stack.enter_context(tempfile.TemporaryDirectory())
        if not work.records:
            write_records(folder, objects=work.objects)
        info = load_info(folder)
        stack.enter_context(named_errors(folder))
        sides = sorted((work.height, work.width))
        batches = iter(Input(work.batch, *sides, MAX_OBJECTS, augment=(flip,)).dataset(folder, seed=0))
        steps = max(1, round(IMAGES / work.batch))

        def step():
            for _ in range(steps):
                next(batches)

        details = {
            "records": work.records or "drawn",
            "epochs": round(steps * work.batch * work.repeats / info.records, 1),
            "objects": f"{(info.objects - info.crowd) / info.records:.1f} an image",
            "semantic map": "yes" if info.stuff.present else "no",
        }
        found = measure(step, "image", steps * work.batch, work.repeats, warmup=3, details=details)
        written = count_bytes(tf.nest.flatten(next(batches))) / work.batch
        limit = Share("B", written, copy_rate(), found.cpu_seconds["median"])
        return found._replace(details={**details, "share of the limit": limit})
