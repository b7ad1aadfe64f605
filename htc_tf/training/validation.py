"""Evaluation during training: COCO metrics, losses, images of ground truth and predictions, the best checkpoint.

`training.loop` evaluates at an interval. The evaluation has a model of its own on this worker's devices, to which the
weights or their averages are copied each time, so the training's are never touched. Every worker detects in its part of
the records, and the chief computes the metrics while the others wait in their next step.
"""

import contextlib
import itertools
import math
import sys
import time

import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.checkpoint_files import CheckpointFiles
from htc_tf.errors import UserError
from htc_tf.evaluation.eval_workers import Workers
from htc_tf.evaluation.records import DRAW_THRESHOLD, NUM_DRAWINGS, evaluate_records, read_batches
from htc_tf.inference.detector import Detector
from htc_tf.inference.results import image_results
from htc_tf.training.epochs import describe_interval
from htc_tf.training.validation_losses import MAX_IMAGES, ValidationLosses
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import contact_sheet, draw

STAGE_IMAGES = 2  # images that are drawn with the masks of every mask head


class Validation:
    """Evaluates the weights of a training on one folder of records."""

    def __init__(self, experiment, info, stop, strategy=None, cluster=None, agree=bool):
        """
        Args:
            experiment: Experiment.
            info: DatasetInfo of the records.
            stop: Object that is true once an evaluation must end early, with `Interrupted`.
            strategy: tf.distribute.Strategy of the training; the evaluation runs on its devices of this worker. None
                for one device.
            cluster: Cluster, this process among the workers; None for a single one.
            agree: Function that `cluster.make_agreement` returned.
        """
        self.experiment, self.info = experiment, info
        self.workers = Workers(cluster, strategy, agree, stop)
        # A strategy of this worker alone, so that reading or copying a variable waits for no other worker. Nothing is
        # summed over the devices; the plainest reduction keeps it apart from the training's collectives.
        self.strategy = strategy and tf.distribute.MirroredStrategy(
            strategy.extended.worker_devices, tf.distribute.ReductionToOneDevice()
        )
        self.model = self.detector = self.losses = None

    def copy_weights(self, model, averages=None):
        """Copies a model's weights, or their MovingAverages. All workers must call it, since all must read."""
        if self.model is None:
            with (self.strategy or tf.distribute.get_strategy()).scope():
                self.model = self.experiment.build_model()
                self.model.build_variables(blank=True)
            self.detector = Detector(self.model, self.experiment, self.strategy)
            self.losses = ValidationLosses(self.experiment, self.model, self.info, self.detector.strategy, self.workers)
        for mine, theirs in zip(self.model.variables, model.variables, strict=True):
            mine.assign(tf.convert_to_tensor(theirs))
        if averages is not None:
            averages.assign_to(self.model.trainable_variables)

    def evaluate(self):
        """Evaluates the copied weights.

        Returns:
            (metrics, {name: [H, W, 3] uint8 image}) on the chief, None on the other workers. The metrics have
            `val_loss/NAME` for each loss too, and the `evaluation_seconds` of all this.
        Raises:
            Interrupted: A worker has to stop.
        """
        began = time.perf_counter()
        losses = self.losses.compute()
        evaluated = evaluate_records(self.detector, self.info, drawings=NUM_DRAWINGS, workers=self.workers)
        if evaluated is None:
            return None
        metrics, _, drawings = evaluated
        metrics |= {f"val_loss/{name}": value for name, value in losses.items()}
        images = {f"ground truth and prediction/{index}": drawing for index, drawing in enumerate(drawings)}
        if self.model.masks:
            for index, batches in enumerate(
                itertools.islice(read_batches(self.detector, self.info.folder), STAGE_IMAGES)
            ):
                images[f"masks by stage/{index}"] = self.draw_stages(batches)
        metrics["evaluation_seconds"] = time.perf_counter() - began
        return metrics, images

    def draw_stages(self, batches):
        """Draws the first row's detections with the masks of each mask head, one image per head from left to right."""
        batch, detections = batches[0], self.detector.detect_each(batches, stage_masks=True)[0]
        sizes = batch.sizes.numpy().astype(int)
        image = batch.images[0].numpy()[: sizes[0, 0], : sizes[0, 1]]
        drawn = []
        for head in range(detections.stage_masks.shape[2]):
            masks = detections.stage_masks[:, :, head]  # [B, D, heads, 28, 28] -> [B, D, 28, 28]
            result = image_results(detections._replace(masks=masks, stage_masks=None), sizes, sizes)[0]
            names, scores = fonts.class_names(self.info.class_names, self.info.category_ids), result.scores
            drawn.append(draw(image, result.boxes, result.classes, names, scores, result.masks, DRAW_THRESHOLD))
        return contact_sheet(drawn, columns=len(drawn), cell=max(drawn[0].shape[:2]))


class BestCheckpoint:
    """The best evaluated weights by one metric, averaged if the run averages: RUN/best, a run for all commands."""

    def __init__(self, run, metric, config, categories):
        """
        Args:
            run: Run of the training.
            metric: Key of an evaluator's metric that is better when larger; None to keep nothing.
            config, categories: Arguments of `Run.create`.
        """
        self.run, self.metric, self.config, self.categories = run.best, metric, config, categories

    def update(self, step, metrics, model):
        """Saves the model and returns True if its metrics are better than those saved, by any process of the run.

        Raises:
            UserError: The evaluation has no such metric.
        """
        if self.metric is None:
            return False
        value = metrics.get(self.metric)
        if not isinstance(value, float):
            known = ", ".join(name for name, other in metrics.items() if isinstance(other, float))
            raise UserError(
                f"Experiment.keep_best = {self.metric!r} is not a metric of the evaluation: choose one of {known}"
            )
        checkpoints = Checkpoints(self.run, model, keep=1)
        _, problems = checkpoints.files.newest_intact()
        saved = self.find_saved(checkpoints.files)
        if saved is not None and value <= saved[1]:
            return False
        if problems:
            print(f"note: {'; '.join(problems)}: step {step} replaces it", file=sys.stderr)
        self.run.create(self.config, self.categories)
        # All of them, since `keep_best` may change before the run resumes.
        try:
            checkpoints.save(step, metrics=finite_numbers(metrics))
        except (OSError, tf.errors.OpError):  # such as a full disk
            with contextlib.suppress(OSError):
                checkpoints.sweep()
            raise
        checkpoints.files.remove(lambda number: number > step)  # a resumed training repeats earlier steps
        return True

    def saved(self):
        """Returns (step, metric) of the weights that are saved, or None without a metric that is a number."""
        if self.metric is None:
            return None
        return self.find_saved(CheckpointFiles(self.run.checkpoints))

    def find_saved(self, files):
        """Returns the same, given the CheckpointFiles of RUN/best, which verify each file once."""
        number, _ = files.newest_intact()
        metrics = None if number is None else files.manifest(number).get("metrics")
        value = metrics.get(self.metric) if isinstance(metrics, dict) else None
        return (number, value) if isinstance(value, float) else None


def finite_numbers(metrics):
    """Returns the metrics that are finite floats: JSON has no NaN, such as a loss that overflows in float16."""
    return {name: value for name, value in metrics.items() if isinstance(value, float) and math.isfinite(value)}


def evaluations_since_best(evaluations, metric):
    """Returns the number of evaluations after the best one; 0 without any.

    Args:
        evaluations: {step: {name: number}}.
        metric: Name of a number that is better when larger.
    """
    values = [numbers[metric] for _, numbers in sorted(evaluations.items()) if metric in numbers]
    return len(values) - 1 - values.index(max(values)) if values else 0


def describe_evaluations(experiment, info, epoch_steps):
    """Returns "every 75 steps (1 epoch), 12 in all, each on 200 images of records/val", or "none".

    Args:
        experiment: Experiment.
        info: DatasetInfo of the records, or None.
        epoch_steps: int, steps of an epoch.
    """
    if info is None or not experiment.evaluate_every:
        return "none"
    interval = describe_interval(experiment.evaluate_every, experiment.steps, epoch_steps)
    some = f", losses on the first {MAX_IMAGES}" if info.records > MAX_IMAGES else ""
    patience = f"; ends early after {experiment.patience} without improvement" if experiment.patience else ""
    return f"{interval}, each on {info.records} images of {info.folder}{some}{patience}"
