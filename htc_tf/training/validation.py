"""Evaluation while a training runs: COCO's numbers, and pictures of truth, prediction and every stage's masks.

Called by `training.trainer` at an interval. It has a model of its own on this worker's devices, which takes the weights
or their averages each time: so the training's are never touched. Every worker detects in its part of the records, and
the chief counts what all have found while the others wait in their next step.
"""

import itertools

import tensorflow as tf

from htc_tf.evaluation.eval_workers import Crew
from htc_tf.evaluation.records import PICTURE_THRESHOLD, PICTURES, evaluate_records, read_batches
from htc_tf.inference.detector import Detector
from htc_tf.inference.results import image_results
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import contact_sheet, draw

STAGE_PICTURES = 2


class Validation:
    """Evaluates the weights of a training on one folder of records."""

    def __init__(self, experiment, info, stop, strategy=None, cluster=None, agree=bool):
        """
        Args:
            experiment: Experiment.
            info: DatasetInfo of the records.
            stop: true when an evaluation is to end early, with `inference.Interrupted`.
            strategy: the training's; the evaluation runs on all devices that this worker has in it. One without it.
            cluster: which of the training's workers this is; the only one if None.
            agree: bool -> whether any worker said True, as of `devices.make_agreement`.
        """
        self.experiment, self.info = experiment, info
        self.crew = Crew(cluster, strategy, agree, stop)
        # This worker's own: what reads or copies a variable then waits for no other. Nothing is ever summed over the
        # devices, and to name the plainest way of doing it keeps it apart from the training's.
        self.strategy = strategy and tf.distribute.MirroredStrategy(
            strategy.extended.worker_devices, tf.distribute.ReductionToOneDevice()
        )
        self.model = self.detector = None

    def take(self, model, averages=None):
        """Takes a model's weights, or their MovingAverages. With several workers all of them must read."""
        if self.model is None:
            with (self.strategy or tf.distribute.get_strategy()).scope():
                self.model = self.experiment.build_model()
                self.model.build_variables(blank=True)
            self.detector = Detector(self.model, self.experiment, self.strategy)
        for mine, theirs in zip(self.model.variables, model.variables, strict=True):
            mine.assign(tf.convert_to_tensor(theirs))
        if averages is not None:
            averages.assign_to(self.model.trainable_variables)

    def evaluate(self):
        """-> (metrics, {name: picture as uint8 [H, W, 3]}) on the chief, None on the other workers.

        Raises:
            inference.Interrupted: the crew was told to stop.
        """
        evaluated = evaluate_records(self.detector, self.info, pictures=PICTURES, crew=self.crew)
        if evaluated is None:
            return None
        metrics, _, drawings = evaluated
        pictures = {f"truth and prediction/{index}": drawing for index, drawing in enumerate(drawings)}
        if self.model.masks:
            for index, batches in enumerate(
                itertools.islice(read_batches(self.detector, self.info.folder), STAGE_PICTURES)
            ):
                pictures[f"masks by stage/{index}"] = self.draw_stages(batches)
        return metrics, pictures

    def draw_stages(self, batches):
        """The first row's detections, with each stage's masks, one picture a stage from left to right."""
        batch, detections = batches[0], self.detector.detect_each(batches, stage_masks=True)[0]
        sizes = batch.sizes.numpy().astype(int)
        image = batch.images[0].numpy()[: sizes[0, 0], : sizes[0, 1]]
        drawn = []
        for stage in range(detections.stage_masks.shape[2]):
            masks = detections.stage_masks[:, :, stage]
            result = image_results(detections._replace(masks=masks, stage_masks=None), sizes, sizes)[0]
            names, scores = fonts.class_names(self.info.class_names, self.info.category_ids), result.scores
            drawn.append(draw(image, result.boxes, result.classes, names, scores, result.masks, PICTURE_THRESHOLD))
        return contact_sheet(drawn, columns=len(drawn), cell=max(drawn[0].shape[:2]))
