"""Inference and training beside the machine's limit: the network's FLOPs at its rate of products, and part by part.

The whole is timed as `python -m htc_tf.benchmark` does, with the rate of products measured before each of its steps,
because both change with what else the machine does. The parts of inference are timed afterwards, each on its inputs in
the `Outputs` of one pass, so that the peak of memory is that of inference alone.
"""

import collections
import statistics
import time

import tensorflow as tf

from htc_tf import benchmark
from htc_tf.data.synthetic import draw_image
from htc_tf.inference.results import image_results
from htc_tf.structures import RoIs
from tests.benchmarks import machine
from tests.benchmarks.arithmetic import Flop, count_parts

SEED = (0, 0)


def run_inference(flags):
    experiment, detector, images = benchmark.prepare_inference(flags)
    rates = []
    measurement = benchmark.measure_inference(flags, experiment, detector, images, add_rate(flags, rates))
    detections = round(measurement.details["detections per image"] * flags.batch)
    flop = inference_flop(detector, flags, detections)
    details = with_limit(measurement, sum(part.forward for part in flop.values()) / flags.batch, rates)
    if not experiment.xla:
        seconds, proposals = time_parts(detector, images)
        details["proposals per image"] = proposals / flags.batch
        details |= {name: describe_part(name, seconds, flop, flags.batch) for name in seconds}
    return measurement._replace(details=details)


def run_training(flags):
    experiment, strategy, model, batch = benchmark.prepare_training(flags)
    rates = []
    measurement = benchmark.measure_training(flags, experiment, strategy, model, batch, add_rate(flags, rates))
    counts = count_sampled(model, batch)
    flop = training_flop(model, batch, counts["RoIs per stage"], counts["positives for masks"])
    details = with_limit(measurement, sum(map(sum, flop.values())), rates)
    return measurement._replace(details=details | counts | {name: part._asdict() for name, part in flop.items()})


def add_rate(flags, rates):
    """Returns a function that adds the rate of products at the moment to a list."""
    return lambda: rates.append(machine.matmul_rate(flags.precision))


def with_limit(measurement, amount, rates):
    """Returns the details with the machine's rates and the share of its products that was reached.

    Args:
        measurement: Measurement.
        amount: FLOP of a unit.
        rates: FLOP per CPU second of products, before each step; the median is compared with that of the steps.
    """
    rate = statistics.median(rates)
    share = machine.share_of_limit("FLOP", amount, rate, measurement.cpu_seconds["median"])
    limits = {"matmul_rate": rate, "copy_rate": machine.copy_rate()}
    return measurement.details | {"share of the limit": share, "machine": limits}


def inference_flop(detector, flags, detections=None):
    """Returns {part: Flop} of a batch, by default with every detection filled."""
    model = detector.model
    shape = detector.padded_shape(draw_image(flags.height, flags.width))
    proposals = model.rpn.kept[False] or model.rpn.proposals[False]
    if detections is None:
        detections = flags.batch * model.postprocess.keep
    return count_parts(model, *shape, flags.batch, [flags.batch * proposals] * len(model.stages), detections)


def training_flop(model, batch, rois, positives):
    """Returns {part: Flop} of a training step; `rois` and `positives` are numbers per stage."""
    images, height, width, _ = batch.images.shape
    return count_parts(model, height, width, images, rois, positives, training=True)


def count_sampled(model, batch):
    """Returns {what: its number in each stage, over all images} of a training step."""

    @tf.function(autograph=False)
    def count(batch):
        stages = model(batch.images, batch.sizes, batch.truth, tf.constant(SEED)).stages
        masks = [tf.constant(0) if s.mask_rois is None else tf.math.count_nonzero(s.mask_rois.valid) for s in stages]
        kinds = [[s.rois.valid for s in stages], [s.rois.positive for s in stages]]
        return [*([tf.math.count_nonzero(x) for x in kind] for kind in kinds), masks]

    names = ("RoIs per stage", "positive RoIs", "positives for masks")
    return {name: [int(x) for x in found] for name, found in zip(names, count(batch), strict=True)}


def describe_part(name, seconds, flop, images):
    """Returns the cost per image of one part of {part: CPU seconds of a batch}, {part: Flop of a batch}."""
    whole = sum(value for key, value in seconds.items() if "RoIAlign" not in key)
    amount = flop.get(name, Flop(0.0)).forward
    return {
        "cpu_ms_per_image": 1e3 * seconds[name] / images,
        "share": seconds[name] / whole,
        "flop_per_image": amount / images,
        "flop_per_cpu_second": amount / seconds[name],
    }


def time_parts(detector, images):
    """Times each part on its inputs in the Outputs of one pass.

    Returns:
        ({part: CPU seconds of a batch}, proposals in the batch). A part "x: RoIAlign" is also contained in part x.
    """
    model, seconds = detector.model, collections.Counter()

    def take(name, function, *inputs):
        function(*inputs)
        before = time.process_time()
        outputs = function(*inputs)
        seconds[name] += time.process_time() - before
        return outputs

    def compiled(name, function, *inputs):
        return take(name, tf.function(function, autograph=False), *inputs)

    pixels, sizes = take("resizing", prepare_batch, detector, images)
    outputs = tf.function(lambda pixels, sizes: model(pixels, sizes), autograph=False)(pixels, sizes)
    compiled("backbone and FPN", model.extract_pyramids, pixels, sizes)
    compiled("RPN", lambda maps, sizes: model.rpn(maps, sizes, False).proposals, outputs.pyramid, sizes)
    embedding = None
    if model.semantic_head is not None:
        embedding = outputs.semantic.embedding
        compiled("semantic branch", lambda maps: model.semantic_head(maps).embedding, outputs.pyramid)
    context = None
    if model.context_head is not None:
        context = outputs.context.embedding
        compiled("global context", lambda maps: model.context_head(maps).embedding, outputs.pyramid)
    compiled("maps for RoIAlign", model.roi_pooler.prepare, outputs.pyramid, embedding, context)
    for stage, output in zip(model.stages, outputs.stages, strict=True):

        def refine(features, rois, sizes, stage=stage):
            return model.box_branch(stage, features, rois, sizes)

        compiled("box stages", refine, outputs.features, output.rois, sizes)
        compiled("box stages: RoIAlign", model.roi_pooler.pool_boxes, outputs.features, output.rois)
    found = compiled("scores and NMS", model.postprocess, outputs.stages, outputs.valid)
    if model.masks:

        def predict_masks(features, found):
            return model.add_masks(found, model.stage_masks(features, found)).masks

        masks = compiled("masks", predict_masks, outputs.features, found)
        compiled("masks: RoIAlign", model.roi_pooler.pool_masks, outputs.features, RoIs(found.boxes, found.valid))
        found = found._replace(masks=masks)
    take("pasting", image_results, found, sizes, [image.shape[:2] for image in images])
    return dict(seconds), int(tf.math.count_nonzero(outputs.rpn.proposals.valid))


def prepare_batch(detector, images):
    """Returns images [B, H, W, 3] uint8 and sizes [B, 2] as the detector prepares them."""
    return tuple(tf.concat(parts, axis=0) for parts in zip(*map(detector.prepare, images), strict=True))
