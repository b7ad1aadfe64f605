"""Jobs of test_two_environments.py: what an environment writes, and what it makes of the files of another.

    PYTHON -m tests.lanes.job FOLDER DATA             writes FOLDER
    PYTHON -m tests.lanes.job FOLDER DATA --other DIR reads DIR, which another environment wrote, and writes FOLDER

DATA has images/, annotations.json, stuff/ and records/. Each job writes FOLDER/NAME, its output to FOLDER/NAME.log, and
if it fails its traceback to FOLDER/NAME.error. All jobs share a process, since importing TensorFlow takes seconds.
"""

import argparse
import contextlib
import importlib
import json
import shutil
import sys
import time
import traceback
from pathlib import Path

import numpy as np

TINY = "tests/tiny.gin"
STEPS, STOP = 6, 3
OPTIMIZERS = ("SGD", "AdamW", "SGDW", "LAMB")
NO_NORMS = [f"{part}.norm=None" for part in ("FPN", "BoxHead", "MaskHead", "SemanticHead")]
CONVERTED = [*NO_NORMS, "NUM_STAGES=1"]


def call(module, *flags):
    """Runs the command `python -m module` in this process."""
    import gin

    gin.clear_config()
    sys.argv = [module, *map(str, flags)]
    importlib.import_module(module).main()


def settings(*params):
    """Returns the flags of the tiny experiment config with these bindings."""
    return ["--gin_file", TINY, *(flag for param in params for flag in ("--gin_param", param))]


def shapes(place, data, other):
    """Draws scenes with the seed of `make demo`."""
    call("pipelines.shapes", "--output", place, "--train", 8, "--val", 2, "--seed", 0, "--workers", 1)


def records(place, data, other):
    """Prepares the records of DATA once more."""
    flags = ["--annotations", data / "annotations.json", "--images", data / "images", "--stuff", data / "stuff"]
    call("pipelines.coco_to_tfrecord", *flags, "--output", place, "--shards", 2)


def batches(place, data, other):
    """Reads the batches of a training from its step STOP on."""
    from htc_tf import config
    from htc_tf.training.loop import read_batch

    experiment, _ = config.load([TINY], [])
    place.mkdir()
    for step in range(STOP, STOP + 2):
        batch = read_batch(experiment, data / "records", 0, step)
        fields = batch._asdict()
        np.savez(place / f"{step}.npz", **fields.pop("truth")._asdict(), **fields)


def training(place, data, other):
    """Trains STEPS steps; with `other`, those after its checkpoint of step STOP."""
    if other:
        copy_killed(other / "training", place)
    lengths = [f"STEPS={STEPS}", f"CHECKPOINT_EVERY={STOP}"]
    flags = ["--train_records", data / "records", "--workdir", place]
    call("htc_tf.train", *settings("NUM_STAGES=2", "Experiment.ema_decay=0.9", *lengths), *flags)
    save_checkpoint(place)


def copy_killed(run, place):
    """Copies a run as if it had been killed after its last step, before that was saved."""
    shutil.copytree(run, place)
    for path in [*place.glob(f"checkpoints/ckpt-{STEPS}.*"), place / "checkpoint.npz"]:
        path.unlink()


def save_checkpoint(run):
    """Saves the values of the last checkpoint as checkpoint.npz."""
    import tensorflow as tf

    stored = tf.train.load_checkpoint(str(run / f"checkpoints/ckpt-{STEPS}"))
    names = {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name in stored.get_variable_to_shape_map()}
    names -= {"_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter"}
    values = {name: stored.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE") for name in sorted(names)}
    np.savez(run / "checkpoint.npz", **values)


def optimizers(place, data, other):
    """Trains the network of tests/training/toy.py with each optimizer, as `training` does."""
    from htc_tf.checkpoint import Checkpoints
    from htc_tf.run import Run
    from htc_tf.training import optim
    from htc_tf.training.schedules import StepSchedule
    from tests.training import toy

    for name in OPTIMIZERS:
        folder = place / name
        if other:
            copy_killed(other / "optimizers" / name, folder)
        started = toy.start(recipe=getattr(optim, name)(StepSchedule(base=0.1, batch_size=8, steps=9, warmup_steps=2)))
        checkpoints = Checkpoints(Run(folder), started.model, started.optimizer, started.step)
        checkpoints.restore_latest()
        first = int(started.step.numpy())
        losses = []
        for batch in list(toy.iterate(started, toy.make_batches(STEPS)))[first:]:
            losses.append(float(started.train_step(batch)["total"]))
            if int(started.step.numpy()) in (STOP, STEPS):
                checkpoints.save(int(started.step.numpy()), seed=0)
        (folder / "losses.json").write_text(json.dumps(dict(zip(range(first + 1, STEPS + 1), losses, strict=True))))
        save_checkpoint(folder)


def detections(place, data, other):
    """Detects with a run: everything that a Prediction has, and the masks' probabilities."""
    import htc_tf

    model = htc_tf.load((other or place.parent) / "training")
    place.mkdir()
    for path in sorted((data / "images").iterdir()):
        found = model(path)
        save_detections(place / f"{path.stem}.npz", found.result)
        images, sizes = model.detector.prepare(found.image)
        raw = {
            name: value for name, value in model.detector.detect(images, sizes)._asdict().items() if value is not None
        }
        np.savez(place / f"{path.stem}.raw.npz", **raw)
    weights = {f"{i} {v.name}": v.numpy() for i, v in enumerate(model.detector.model.variables)}
    np.savez(place / "weights.npz", **weights)  # the moving averages


def save_detections(path, result):
    runs = [json.dumps(run) for run in result.masks]
    np.savez(path, boxes=result.boxes, scores=result.scores, classes=result.classes, masks=np.array(runs, str))


def evaluation(place, data, other):
    """Evaluates the run, or the predictions that another environment saved."""
    flags = ["--records", data / "records", "--output", place / "metrics.json"]
    if other:
        flags += ["--predictions", other / "evaluation" / "metrics.predictions.json"]
    else:
        flags += ["--checkpoint", place.parent / "training"]
    call("htc_tf.eval", *flags)


def export(place, data, other):
    """Exports the run."""
    flags = ["--masks", "masks_rle_bytes,masks_28", "--semantic"]
    call("htc_tf.export", "--checkpoint", place.parent / "training", "--output", place, *flags)


def served(place, data, other):
    """Detects with an export, by each of its signatures and by the client."""
    import tensorflow as tf

    from htc_tf.data.datasets import load_info, read_shard
    from htc_tf.inference.exported import load_export
    from htc_tf.inference.inputs import read_image

    folder = (other or place.parent) / "export"
    _, model, _ = load_export(folder, "serving_default")
    paths = sorted((data / "images").iterdir())
    files = tf.constant([path.read_bytes() for path in paths])
    images = [tf.constant(read_image(path)) for path in paths]
    sizes = tf.stack([tf.shape(image)[:2] for image in images])
    height, width = tf.reduce_max(sizes, axis=0).numpy()
    padded = [tf.image.pad_to_bounding_box(image, 0, 0, height, width) for image in images]
    info = load_info(data / "records")
    rows = [
        row
        for path, shard in zip(info.shard_paths, info.shards, strict=True)
        for row in read_shard(path, shard.records)
    ]
    inputs = {
        "serving_default": {"image_bytes": files},
        "predict_bytes": {"image_bytes": files},
        "predict_image": {"images": tf.stack(padded), "sizes": sizes},
        "predict_example": {"examples": tf.constant(rows)},
    }
    assert set(inputs) == set(model.signatures)
    place.mkdir()
    (place / "graph.json").write_text(json.dumps(describe_graph(folder)))
    for name, tensors in inputs.items():
        outputs = {key: value.numpy() for key, value in model.signatures[name](**tensors).items()}
        outputs = {key: value.astype(bytes) if value.dtype == object else value for key, value in outputs.items()}
        np.savez(place / f"{name}.npz", **outputs)
    call(
        "htc_tf.client", "--export", folder, "--input", data / "images", "--output", place / "client", "--threshold", 0
    )


def describe_graph(folder):
    """Returns what an export needs of a TensorFlow, and the operations and attributes that this one does not know."""
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.framework import op_def_registry

    saved = saved_model_pb2.SavedModel.FromString((folder / "1" / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    functions = {function.signature.name for function in graph.library.function}
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    found, unknown = set(), set()
    for node in nodes:
        definition = None if node.op in functions else op_def_registry.get(node.op)
        known = set() if definition is None else {attribute.name for attribute in definition.attr}
        found.add(node.op)
        if node.op not in functions and definition is None:
            unknown.add(node.op)
        # Attributes that begin with an underscore are notes, which a TensorFlow ignores where it has no use for them.
        unknown |= {f"{node.op}.{name}" for name in node.attr if name[0] != "_" and definition and name not in known}
    return {
        "min_consumer": graph.versions.min_consumer,
        "operations": sorted(found - functions),
        "unknown": sorted(unknown),
    }


def conversion(place, data, other):
    """Converts a checkpoint of mmengine, written by this environment or another, and reads one of Paddle."""
    from htc_tf import config
    from htc_tf.inference.detector import restore
    from htc_tf.run import Run
    from tests import checkpoint_writers
    from tests.weights.reading import load

    place.mkdir()
    source = other / "conversion" if other else place
    if not other:
        write_checkpoints(checkpoint_writers, source)
    call("htc_tf.convert", "--weights", source / "mmengine.pth", *settings(*CONVERTED), "--output", place / "run")
    experiment, _ = config.load([], [], Run(place / "run"))
    model = restore(experiment, Run(place / "run")).model
    np.savez(place / "mmengine.npz", **{f"{i} {v.name}": v.numpy() for i, v in enumerate(model.variables)})
    np.savez(place / "paddle.npz", **load(source / "arrays.pdparams"))


def write_checkpoints(writers, place):
    """Writes mmengine.pth with the tiny network's weights, and arrays.pdparams."""
    from htc_tf import config
    from htc_tf.weights import mmdet_arrays

    experiment, _ = config.load([TINY], CONVERTED)
    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    model.build_variables()
    draw = np.random.default_rng(0)
    arrays = {
        name: array if name.endswith("num_batches_tracked") else draw.random(array.shape, np.float32)
        for name, array in mmdet_arrays(model).items()
    }
    names = [f"class {index}" for index in range(8)]
    meta = {"dataset_meta": {"classes": names}}
    writers.mmengine_epoch(place / "mmengine.pth", arrays, meta=meta)
    writers.paddle_arrays(place / "arrays.pdparams", dict(list(arrays.items())[:9]))


JOBS = (shapes, records, batches, optimizers, training, detections, evaluation, export, served, conversion)
WRITE_ONLY = (shapes, records, batches, export)  # read nothing of another environment


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.lanes.job", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--other", type=Path)
    flags = parser.parse_args()
    for job in JOBS:
        if flags.other and job in WRITE_ONLY:
            continue
        name = job.__name__
        began = time.process_time()
        with (
            open(flags.folder / f"{name}.log", "w") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                job(flags.folder / name, flags.data, flags.other)
            except (Exception, SystemExit):
                (flags.folder / f"{name}.error").write_text(traceback.format_exc())
        print(f"{name}: {time.process_time() - began:.1f} CPU-seconds", flush=True)


if __name__ == "__main__":
    main()
