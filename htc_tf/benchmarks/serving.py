"""Mode `serving`: an exported model's answers: how long a request takes and how many bytes the answer has.

Before it: `htc_tf.benchmark`. The SavedModel is asked in this process, without a network, as TensorFlow Serving asks
it: encoded pictures in, all of its outputs out. What the answer weighs on the wire, `benchmarks.payload` counts.
"""

import itertools
import time

import numpy as np
from tqdm import tqdm

from htc_tf.benchmarks.drawn_records import draw_record
from htc_tf.benchmarks.measure import Measurement, peak_bytes, resident_bytes, summarise
from htc_tf.benchmarks.payload import grpc_bytes, rest_bytes
from htc_tf.data.datasets import load_info, read_shard
from htc_tf.data.schema import unpack
from htc_tf.errors import UserError
from htc_tf.inference.exported_outputs import NEEDED
from htc_tf.serving.local_client import LocalModel

PICTURES = 16


def run(work):
    """Work -> Measurement of one picture, for the first of the batch sizes; its details have a line for each."""
    memory = {"before": resident_bytes()}
    start = time.perf_counter()
    model = LocalModel(work.export)
    loading = time.perf_counter() - start
    memory["loaded"] = resident_bytes()
    pictures = load_pictures(work)
    requests = {size: time_requests(model, pictures, size, work.repeats) for size in work.batch_sizes}
    answers = [model.predict([picture]) for picture in pictures]
    refused = {answer["status"][0].decode() for answer in answers} - {""}
    if refused:
        raise UserError(f"the model refuses the pictures: {refused.pop()}")
    memory |= {"served": resident_bytes(), "peak": peak_bytes()}
    details = {
        "export": work.export,
        "loading": f"{loading:.2f} s",
        "pictures": f"{np.mean([len(picture) for picture in pictures]) / 1e3:.0f} kB each, {work.records or 'drawn'}",
        **{f"batch {size}": request for size, request in requests.items()},
        "found": f"{np.mean([answer['num_detections'] for answer in answers]):.1f} objects a picture",
        **weigh(answers),
    }
    (first, *_) = requests.values()
    return Measurement("picture", first.cpu, first.wall, memory, details)


def load_pictures(work):
    """The encoded pictures of a data set's first records, or drawn ones of the size that is asked for."""
    if work.records:
        info = load_info(work.records)
        records = itertools.chain.from_iterable(
            read_shard(path, shard.records) for path, shard in zip(info.shard_paths, info.shards, strict=True)
        )
        serialized = itertools.islice(records, PICTURES)
    else:
        generator = np.random.default_rng(0)
        size = work.height, work.width
        serialized = (draw_record(generator, number + 1, size) for number in range(PICTURES))
    return [unpack(record).image.encoded for record in serialized]


class Requests(dict):
    """Requests of one batch size: milliseconds of a request by percentile, and pictures a second."""

    def __init__(self, size, first, cpu, wall):
        """first: seconds of the first request, which may compile; cpu, wall: of each one after it."""
        p50, p90, p99 = (1e3 * np.percentile(wall, [50, 90, 99])).tolist()
        super().__init__(
            first_ms=1e3 * first,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            maximum_ms=1e3 * max(wall),
            pictures_per_second=size * len(wall) / sum(wall),
            cpu_ms_a_picture=1e3 * float(np.median(cpu)) / size,
        )
        self.cpu, self.wall = (summarise([seconds / size for seconds in taken]) for taken in (cpu, wall))

    def __str__(self):
        return (
            f"a request p50 {self['p50_ms']:.1f}, p90 {self['p90_ms']:.1f}, p99 {self['p99_ms']:.1f}, the first "
            f"{self['first_ms']:.0f} ms; {self['pictures_per_second']:.2f} pictures/s; "
            f"CPU {self['cpu_ms_a_picture']:.1f} ms a picture"
        )


def time_requests(model, pictures, size, repeats):
    """`repeats` requests of `size` pictures, after a first one -> Requests."""
    turn = itertools.cycle(pictures)
    cpu, wall = [], []
    for _ in tqdm(range(-1, repeats), unit="request", desc=f"batch {size}"):
        batch = [next(turn) for _ in range(size)]
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        model.predict(batch)
        cpu.append(time.process_time() - cpu_before)
        wall.append(time.perf_counter() - wall_before)
    return Requests(size, wall[0], cpu[1:], wall[1:])


class Weight(dict):
    """Bytes of a part of the answer to one picture, on average."""

    def __str__(self):
        return f"{self['rest_bytes']:,} bytes by REST, {self['grpc_bytes']:,} by gRPC"


def weigh(answers):
    """The answers to single pictures -> {part: Weight}: all but the masks, then each output besides."""
    parts = {"answer": [name for name in answers[0] if name in NEEDED]}
    parts |= {name: [name] for name in sorted(answers[0]) if name not in NEEDED}
    return {
        part: Weight(
            rest_bytes=round(np.mean([len(rest_bytes({name: answer[name] for name in names})) for answer in answers])),
            grpc_bytes=round(np.mean([len(grpc_bytes({name: answer[name] for name in names})) for answer in answers])),
        )
        for part, names in parts.items()
    }
