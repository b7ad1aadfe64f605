"""Mode `inference`: from a decoded picture to its pasted masks, as `htc_tf.predict` does it; then part by part.

Before it: `htc_tf.benchmark`, which has parsed gin. The network has learnt nothing, which costs no less: it finds as
many objects as it may. Its proposals are as large as a trained network's (`benchmarks.drawn_scene`). The parts are
timed afterwards, so that the peak of memory is that of inference alone.
"""

import collections
import time

import tensorflow as tf

from htc_tf.benchmarks.arithmetic import Arithmetic, Flop
from htc_tf.benchmarks.drawn_scene import draw_picture, propose_usual_boxes
from htc_tf.benchmarks.hlo import Program
from htc_tf.benchmarks.machine import Rates, Share
from htc_tf.benchmarks.measure import measure
from htc_tf.experiment import Experiment
from htc_tf.inference.detector import Detector, build_variables
from htc_tf.inference.results import image_results
from htc_tf.structures import RoIs


def run(work):
    """Work -> Measurement of one image."""
    experiment, detector, pictures = prepare(work)
    found = []

    def step():
        found[:] = detector.detect_images(pictures)

    measurement = measure(step, "image", work.batch, work.repeats, warmup=1, details={})
    detections = sum(len(result.boxes) for result in found)
    flop = count_flop(detector, work, detections)
    total = sum(part.forward for part in flop.values())
    rates = Rates(work.precision)
    details = {
        "compiled": "by XLA, as one" if experiment.xla else "as a graph",
        "detections": f"{detections / work.batch:g} an image",
        "share of the limit": Share(
            "FLOP", total / work.batch, rates["matmul_rate"], measurement.cpu_seconds["median"]
        ),
        "machine": rates,
    }
    if not experiment.xla:
        seconds, proposals = time_parts(detector, pictures)
        details["proposals"] = f"{proposals / work.batch:g} an image"
        details |= {name: Part(name, seconds, flop, work.batch) for name in seconds}
    return measurement._replace(details=details)


def prepare(work):
    """-> (Experiment, its Detector, pictures [H, W, 3] uint8)"""
    experiment = Experiment()
    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    propose_usual_boxes(model.rpn, work.height, work.width)
    build_variables(model)
    pictures = [draw_picture(work.height, work.width, seed) for seed in range(work.batch)]
    return experiment, Detector(model, experiment), pictures


def prepare_batch(detector, pictures):
    """-> images [B, H, W, 3] uint8 and sizes [B, 2], as the detector makes them."""
    return tuple(tf.concat(parts, axis=0) for parts in zip(*map(detector.prepare, pictures), strict=True))


def count_flop(detector, work, detections=None):
    """{part: Flop} of a batch."""
    model = detector.model
    shape = detector.padded_shape(draw_picture(work.height, work.width))
    proposals = model.rpn.kept[False] or model.rpn.proposals[False]
    if detections is None:
        detections = work.batch * model.postprocess.keep
    return Arithmetic(model, *shape).parts(work.batch, [work.batch * proposals] * len(model.stages), detections)


def program(work):
    """Work -> the Program of detection, without decoding, resizing and pasting."""
    _, detector, pictures = prepare(work)
    images, sizes = prepare_batch(detector, pictures)
    flop = sum(part.forward for part in count_flop(detector, work).values())

    def detect(images, sizes):
        return detector.model.infer(images, sizes)._replace(stage_masks=None)

    return Program(detect, {"images": images, "sizes": sizes}, work._asdict(), flop)


class Part(dict):
    """What a part of inference takes, for the JSON; as text, a line of the table."""

    def __init__(self, name, seconds, flop, images):
        """
        Args:
            name: a key of `seconds`.
            seconds: {part: CPU seconds} of a batch.
            flop: {part: Flop} of a batch, of those that have products.
            images: in the batch.
        """
        whole = sum(value for key, value in seconds.items() if "RoIAlign" not in key)
        amount = flop.get(name, Flop(0.0)).forward
        super().__init__(
            cpu_ms_an_image=1e3 * seconds[name] / images, share=seconds[name] / whole, flop_an_image=amount / images
        )
        self["flop_per_cpu_second"] = amount / seconds[name]

    def __str__(self):
        text = f"CPU {self['cpu_ms_an_image']:.1f} ms, {100 * self['share']:.1f} %"
        if not self["flop_an_image"]:
            return text
        rate = f"{self['flop_per_cpu_second'] / 1e9:.1f} GFLOP a CPU second"
        return f"{text}; {self['flop_an_image'] / 1e9:.3f} GFLOP, {rate}"


def time_parts(detector, pictures):
    """Times each part on its inputs in the Outputs of one pass.

    Returns:
        ({part: CPU seconds of a batch}, proposals in the batch). A part `x: RoIPooler` is in the part x too.
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

    images, sizes = take("resizing", prepare_batch, detector, pictures)
    # One pass gives every part its inputs.
    outputs = tf.function(lambda images, sizes: model(images, sizes), autograph=False)(images, sizes)

    compiled("backbone and FPN", model.extract_pyramid, images, sizes)
    compiled("RPN", lambda maps, sizes: model.rpn(maps, sizes, False).proposals, outputs.pyramid, sizes)
    embedding = None
    if model.semantic_head is not None:
        embedding = outputs.semantic.embedding
        compiled("semantic branch", lambda maps: model.semantic_head(maps).embedding, outputs.pyramid)
    compiled("maps for RoIAlign", model.roi_pooler.prepare, outputs.pyramid, embedding)
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
    shapes = [picture.shape[:2] for picture in pictures]
    take("pasting", image_results, found, sizes, shapes)
    return dict(seconds), int(tf.math.count_nonzero(outputs.rpn.proposals.valid))
