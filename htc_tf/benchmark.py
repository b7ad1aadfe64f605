"""python -m htc_tf.benchmark: measures CPU seconds, wall time and memory of inference, training, input or serving."""

import contextlib
import itertools
import tempfile
import time

import numpy as np

from htc_tf import measurement
from htc_tf.errors import UserError, command
from htc_tf.measurement import Measurement, Mode, measure, summarize
from htc_tf.process_memory import peak_bytes, resident_bytes
from htc_tf.progress import progress_bar

PAPER = "gin/htc_r50_fpn_1x_coco.gin"
SERVED_IMAGES = 16  # different images among the requests
INPUT_IMAGES = 20  # images per measurement of the input pipeline, whose threads read ahead
MAX_OBJECTS = 100


def prepare_inference(flags):
    """Builds the configured network with random weights and typical proposals.

    Returns:
        (Experiment, Detector, images [H, W, 3] uint8)
    """
    from htc_tf.data.synthetic import draw_image
    from htc_tf.experiment import Experiment
    from htc_tf.inference.detector import Detector
    from htc_tf.training.typical_load import propose_typical_boxes

    experiment = Experiment()
    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    propose_typical_boxes(model.rpn, flags.height, flags.width)
    model.build_variables()
    images = [draw_image(flags.height, flags.width, seed) for seed in range(flags.batch)]
    return experiment, Detector(model, experiment), images


def measure_inference(flags, experiment, detector, images, before=None):
    """Measures `htc_tf.predict`'s path from a decoded image to pasted masks; random weights fill every detection.

    `before` is that of `measurement.measure`.
    """
    found = []

    def step():
        found[:] = detector.detect_images(images)

    took = measure(step, "image", flags.batch, flags.repeats, warmup=1, before=before)
    detections = sum(len(result.boxes) for result in found) / flags.batch
    compiled = "by XLA, as a whole" if experiment.xla else "as a graph"
    return took._replace(details={"compiled": compiled, "detections per image": detections})


def prepare_training(flags):
    """Builds the configured network with random weights, typical proposals and positives, and a batch.

    Returns:
        (Experiment, tf.distribute.Strategy, model, `structures.Batch` of all devices)
    Raises:
        UserError: The objects exceed MAX_OBJECTS, the batch cannot be divided, or a device does not exist.
    """
    import tensorflow as tf

    from htc_tf.cluster import Cluster, check_batch, make_strategy
    from htc_tf.data.input import Input
    from htc_tf.data.synthetic import write_records
    from htc_tf.experiment import Experiment
    from htc_tf.training.checks import check_determinism
    from htc_tf.training.typical_load import OfferedPositives, propose_typical_boxes

    experiment = Experiment()
    if flags.objects > experiment.train_input.max_objects:
        limit = experiment.train_input.max_objects
        raise UserError(f"--objects {flags.objects} exceeds MAX_OBJECTS = {limit}: add --gin_param MAX_OBJECTS=...")
    check_batch(experiment.batch_size, experiment.accumulate, flags.devices)
    experiment.prepare_runtime(seed=0)
    strategy = tf.distribute.get_strategy()
    if flags.devices > 1:
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        strategy = make_strategy([f"{kind}:{number}" for number in range(flags.devices)], Cluster())
    with strategy.scope():
        model = experiment.build_model()
        propose_typical_boxes(model.rpn, flags.height, flags.width)
        model.roi_sampler = OfferedPositives(model.roi_sampler, model.stages, flags.objects)
        model.build_variables()
    check_determinism(experiment, model)
    train = experiment.train_input
    settings = (flags.batch, train.min_side, train.max_side, train.max_objects, train.mask_size)
    source = Input(*settings, training=False)  # without augmentation
    with tempfile.TemporaryDirectory() as folder:
        write_records(folder, flags.batch, experiment.num_classes, flags.objects, [(flags.height, flags.width)])
        batch = next(iter(source.dataset(folder, seed=0)))
    return experiment, strategy, model, batch


def measure_training(flags, experiment, strategy, model, batch, before=None):
    """Measures a training step, forward, backward and update, on one batch again and again.

    `before` is that of `measurement.measure`.

    Raises:
        FloatingPointError: A step was not finite.
    """
    import tensorflow as tf

    from htc_tf.checkpoint import count_bytes
    from htc_tf.training.step import make_train_step

    with strategy.scope():
        optimizer = experiment.optimizer.build()
        optimizer.build(model.trainable_variables)
        number = tf.Variable(0, dtype=tf.int64, trainable=False)
    train_step = make_train_step(experiment, strategy, model, optimizer, number, seed=0)

    def shard(tensor):
        parts = tf.split(tensor, flags.devices)
        return strategy.experimental_distribute_values_from_function(lambda c: parts[c.replica_id_in_sync_group])

    if flags.devices > 1:
        batch = tf.nest.map_structure(shard, batch)

    def step():
        # Reading a number waits until the devices have computed it.
        if not bool(train_step(batch)["finite"]):
            raise FloatingPointError("a step of the benchmark was not finite")

    details = {
        "compiled": "forward and backward by XLA" if experiment.xla else "as a graph",
        "devices": flags.devices,
        "positives per stage": str(model.roi_sampler.expected_positives(flags.batch)),
        "trained parameters": sum(v.shape.num_elements() for v in model.trainable_variables),
        "gradient bytes": count_bytes(model.trainable_variables),
    }
    warmup = 3 if flags.devices > 1 else 1
    return measure(step, "step", 1, flags.repeats, warmup, details=details, before=before)


def measure_input(flags):
    """Measures the input pipeline from records to batches: decode, flip, resize, masks and semantic map."""
    from htc_tf.data.augment import flip
    from htc_tf.data.datasets import load_info
    from htc_tf.data.input import Input, named_errors
    from htc_tf.data.synthetic import write_records

    with contextlib.ExitStack() as stack:
        folder = flags.records or stack.enter_context(tempfile.TemporaryDirectory())
        if not flags.records:
            write_records(folder, objects=flags.objects)
        info = load_info(folder)
        stack.enter_context(named_errors(folder))
        sides = sorted((flags.height, flags.width))
        batches = iter(Input(flags.batch, *sides, MAX_OBJECTS, augment=(flip,)).dataset(folder, seed=0))
        steps = max(1, round(INPUT_IMAGES / flags.batch))

        def step():
            for _ in range(steps):
                next(batches)

        details = {
            "records": flags.records or "synthetic",
            "epochs": round(steps * flags.batch * flags.repeats / info.records, 1),
            "objects per image": (info.objects - info.crowd) / info.records,
            "semantic map": "yes" if info.stuff.present else "no",
        }
        return measure(step, "image", steps * flags.batch, flags.repeats, warmup=3, details=details)


def load_images(flags):
    """Returns encoded images: from the first records, or synthetic ones of the flags' size."""
    from htc_tf.data.datasets import load_info, read_shard
    from htc_tf.data.schema import unpack
    from htc_tf.data.synthetic import draw_record

    if flags.records:
        info = load_info(flags.records)
        shards = zip(info.shard_paths, info.shards, strict=True)
        records = itertools.chain.from_iterable(read_shard(path, shard.records) for path, shard in shards)
    else:
        generator, size = np.random.default_rng(0), (flags.height, flags.width)
        records = (draw_record(generator, number + 1, size) for number in range(SERVED_IMAGES))
    return [unpack(record).image.encoded for record in itertools.islice(records, SERVED_IMAGES)]


def measure_serving(flags):
    """Measures requests to a SavedModel in this process, without a network: encoded images in, all outputs out."""
    from htc_tf.inference.exported import LocalClient

    memory, began = {"before": resident_bytes()}, time.perf_counter()
    model = LocalClient(flags.export)
    details = {"export": flags.export, "loading, seconds": time.perf_counter() - began}
    memory["loaded"] = resident_bytes()
    images = load_images(flags)
    details["kB per image"] = np.mean([len(image) for image in images]) / 1e3
    seconds = {}
    for size in flags.batch_sizes:
        turn, taken = itertools.cycle(images), []
        for _ in progress_bar(range(-1, flags.repeats), unit="request", desc=f"batch {size}"):
            request = list(itertools.islice(turn, size))
            cpu, wall = time.process_time(), time.perf_counter()
            refused = {status.decode() for status in model.predict(request)["status"]} - {""}
            taken.append((time.process_time() - cpu, time.perf_counter() - wall))
            if refused:
                raise UserError(f"the model refuses the images: {refused.pop()}")
        (_, first), *taken = taken  # the first request of a batch size may compile
        cpu, wall = np.array(taken).T
        seconds[size] = [summarize(times / size) for times in (cpu, wall)]
        p50, p90, p99 = (1e3 * np.percentile(wall, [50, 90, 99])).tolist()
        details[f"batch {size}"] = {
            **{"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "first_ms": 1e3 * first},
            "images_per_second": size / float(wall.mean()),
            "cpu_ms_per_image": 1e3 * float(np.median(cpu)) / size,
        }
    memory |= {"served": resident_bytes()}
    memory["peak"] = max(peak_bytes(), *memory.values())  # Linux updates its peak late, by up to some hundred KiB
    return Measurement("image", *seconds[flags.batch_sizes[0]], memory, details)


def run_inference(flags):
    return measure_inference(flags, *prepare_inference(flags))


def run_training(flags):
    return measure_training(flags, *prepare_training(flags))


MODES = {
    "inference": Mode("a decoded image to its pasted masks", run_inference, gin=PAPER, repeats=5),
    "train": Mode(
        "a training step on --devices",
        run_training,
        gin=PAPER,
        repeats=3,
        reads=("objects", "devices"),
        trains=True,
    ),
    "input": Mode(
        "records to batches: decode, augment, resize, pad",
        measure_input,
        width=1333,
        batch=2,
        objects=7,
        precision=False,
        reads=("objects", "records"),
    ),
    "serving": Mode(
        "requests to an exported model",
        measure_serving,
        height=480,
        width=640,
        precision=False,
        reads=("records", "export", "batch_sizes"),
    ),
}


def parse():
    return measurement.parse(measurement.make_parser("python -m htc_tf.benchmark", __doc__, MODES), MODES)


@command
def main():
    measurement.run(parse(), MODES)


if __name__ == "__main__":
    main()
