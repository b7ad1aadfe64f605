"""Evaluation while a training runs: COCO's numbers, and pictures of truth, prediction and every stage's masks.

Called by `training.trainer` at an interval. It has a model of its own on one device, which takes the weights or their
averages each time: so the training's are never touched, and of several workers the chief alone evaluates.
"""

import tensorflow as tf

from htc_tf.engine.evaluation.results import image_results
from htc_tf.engine.inference import PICTURE_THRESHOLD, PICTURES, Detector, build_variables, evaluate_records
from htc_tf.engine.prediction.visualize import contact_sheet, draw
from htc_tf.structures import Detections

STAGE_PICTURES = 2


class Validation:
    """Evaluates the weights of a training on one folder of records."""

    def __init__(self, experiment, info, stop):
        """
        Args:
            experiment: Experiment.
            info: DatasetInfo of the records.
            stop: true when an evaluation is to end early, with `inference.Interrupted`.
        """
        self.experiment, self.info, self.stop = experiment, info, stop
        self.model = self.detector = None

    def take(self, model, averages=None):
        """Takes a model's weights, or their MovingAverages. With several workers all of them must read."""
        if self.model is None:
            self.model = self.experiment.build_model()
            build_variables(self.model)
            self.detector = Detector(self.model, self.experiment)
        for mine, theirs in zip(self.model.variables, model.variables, strict=True):
            mine.assign(tf.convert_to_tensor(theirs))
        if averages is not None:
            averages.assign_to(self.model.trainable_variables)

    def evaluate(self):
        """-> (metrics, {name: picture as uint8 [H, W, 3]})"""
        metrics, _, drawings = evaluate_records(self.detector, self.info, pictures=PICTURES, stop=self.stop)
        pictures = {f"truth and prediction/{index}": drawing for index, drawing in enumerate(drawings)}
        if self.model.masks:
            for index, batch in enumerate(self.detector.input.dataset(self.info.folder, seed=0).take(STAGE_PICTURES)):
                pictures[f"masks by stage/{index}"] = self.draw_stages(batch)
        return metrics, pictures

    def draw_stages(self, batch):
        """The first row's detections, with each stage's masks, one picture a stage from left to right."""
        detections = self.detector.detect(batch.images, batch.sizes)
        sizes = batch.sizes.numpy().astype(int)
        image = batch.images[0].numpy()[: sizes[0, 0], : sizes[0, 1]]
        found = Detections(*map(tf.constant, detections))
        drawn = []
        _, features = self.model.prepare_features(self.model.extract_pyramid(batch.images, batch.sizes))
        for masks in self.model.stage_masks(features, found):
            result = image_results(detections._replace(masks=masks.numpy()), sizes, sizes)[0]
            names, scores = self.info.class_names, result.scores
            drawn.append(draw(image, result.boxes, result.classes, names, scores, result.masks, PICTURE_THRESHOLD))
        return contact_sheet(drawn, columns=len(drawn), cell=max(drawn[0].shape[:2]))
