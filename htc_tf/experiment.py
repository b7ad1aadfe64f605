"""The experiment: everything that gin configures, in one object that every command builds first.

Paths and seeds identify a run and are flags; the model and its training are defined here.
"""

import contextlib

import gin
import tensorflow as tf

from htc_tf.data.datasets import load_info
from htc_tf.errors import UserError
from htc_tf.ranges import FLAG, check_ranges, choice, either, number, optional, whole

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@gin.configurable
@check_ranges(
    num_classes=whole(1),
    batch_size=whole(1),
    steps=optional(whole()),
    epochs=optional(number(above=0)),
    clip_norm=optional(number(above=0)),
    precision=choice(*PRECISIONS),
    xla=FLAG,
    deterministic=FLAG,
    threads_per_operation=whole(),
    log_every=whole(),
    checkpoint_every=either(whole(), choice("epoch")),
    evaluate_every=either(whole(), choice("epoch", None)),
    keep_checkpoints=whole(1),
    accumulate=whole(1),
    steps_per_loop=whole(1),
    ema_decay=optional(number(0, below=1)),
    skip_non_finite=whole(),
    patience=optional(whole(1)),
    fit_to_records=FLAG,
)
class Experiment:
    """The configured parts of a run; none of them has variables yet."""

    def __init__(
        self,
        build_model,
        objective,
        train_input,
        eval_input,
        optimizer,
        num_classes,
        batch_size,
        steps=None,
        epochs=None,
        clip_norm=None,
        precision="float32",
        xla=False,
        deterministic=False,
        threads_per_operation=0,
        log_every=50,
        checkpoint_every=1000,
        evaluate_every=None,
        keep_checkpoints=3,
        keep_best=None,
        accumulate=1,
        steps_per_loop=1,
        ema_decay=None,
        skip_non_finite=0,
        patience=None,
        backbone_weights=None,
        fit_to_records=False,
    ):
        """
        Args:
            build_model: Function that returns an HTC; called under the strategy of its variables.
            objective: HTCLoss.
            train_input: Input of the training records.
            eval_input: Input of evaluation and inference.
            optimizer: Recipe, such as SGD; its `build` is called under the strategy.
            num_classes: int, thing classes; the records must have as many.
            batch_size: int, images in a global batch, over all replicas.
            steps: int, steps of the whole training; None if they are given in epochs and the records are unknown.
            epochs: float, the same in epochs; None once `config.load` has computed the steps from the records.
            clip_norm: float, maximum of the gradients' global norm, or None.
            precision: "float32", or "bfloat16" or "float16" for convolutions and products (boxes, losses stay float32).
            xla: bool, True to compile forward and backward into one XLA computation.
            deterministic: bool, True for the same bits from the same seed; ops with racing additions run in one thread.
            threads_per_operation: int, CPU threads of one operation; 0 for all. With 1, operations run side by side
                instead, which wastes less if they are small.
            log_every: int, steps between two logged ones; the last is logged too, and with 0 it alone.
            checkpoint_every: int, steps between two checkpoints; 0 for one at the end only; or "epoch".
            evaluate_every: int, steps between two evaluations; 0 for never; or "epoch". None for an epoch if there are
                records to evaluate on, else for never. `config.load` turns "epoch" and None into steps.
            keep_checkpoints: int, number of newest checkpoints to keep.
            keep_best: Metric of the evaluation, such as "segm/AP"; RUN/best keeps the weights that are best at it. Or
                None.
            accumulate: int, micro-batches that a batch is divided into, processed one after the other in the memory of
                one.
            steps_per_loop: int, steps in one call of TensorFlow, which avoids the return to Python in between.
            ema_decay: float, decay of the moving averages of the weights, such as 0.9998, which evaluation, prediction
                and export then use; or None.
            skip_non_finite: int, steps that are not finite that the whole run may skip before it stops.
            patience: int, evaluations without an improvement of `keep_best` after which a training ends early, or None.
            backbone_weights: Name in `weights.model_zoo`, or path, of the weights that the backbone starts from, or
                None.
            fit_to_records: bool, True to take the number of classes and of semantic labels from the training records,
                and to turn off the semantic branch or the mask heads if the records have no annotations for them.
        Raises:
            UserError: An input has another batch size, or is one of the other kind; or there is no optimizer.
        """
        if train_input.batch_size != batch_size:
            raise UserError(
                f"train/Input.batch_size = {train_input.batch_size}, but Experiment.batch_size = {batch_size}: bind "
                "BATCH_SIZE alone"
            )
        for scope, reader, wanted in (("train", train_input, True), ("eval", eval_input, False)):
            if reader.training != wanted:
                raise UserError(f"{scope}/Input.training = {reader.training}: it must be {wanted}")
        if not hasattr(optimizer, "build"):
            raise UserError(f"Experiment.optimizer = {optimizer!r:.80}: give an optimizer's recipe, such as @SGD()")
        self.build_model, self.objective, self.optimizer = build_model, objective, optimizer
        self.train_input, self.eval_input = train_input, eval_input
        self.num_classes, self.batch_size, self.clip_norm = num_classes, batch_size, clip_norm
        self.steps, self.epochs = steps, epochs
        self.precision, self.xla, self.deterministic = precision, xla, deterministic
        self.threads_per_operation = threads_per_operation
        self.log_every, self.checkpoint_every, self.evaluate_every = log_every, checkpoint_every, evaluate_every
        self.keep_checkpoints, self.keep_best = keep_checkpoints, keep_best
        self.accumulate, self.steps_per_loop = accumulate, steps_per_loop
        self.ema_decay, self.skip_non_finite, self.patience = ema_decay, skip_non_finite, patience
        self.backbone_weights, self.fit_to_records = backbone_weights, fit_to_records

    def set_threads(self):
        """Sets the threads of an operation. A TensorFlow that has already started keeps the number that it has."""
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(self.threads_per_operation)

    def prepare_runtime(self, seed):
        """Sets TensorFlow's global state: seed, determinism, memory growth, precision. Call before building a model."""
        tf.keras.utils.set_random_seed(seed)
        if self.deterministic:
            tf.config.experimental.enable_op_determinism()
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            with contextlib.suppress(RuntimeError):  # TensorFlow has started, and keeps the setting that it has
                tf.config.experimental.set_memory_growth(gpu, True)
        if not gpus:
            # Grappler gains nothing measurable here on a CPU, takes long for a graph of this size, and prints a screen
            # of warnings for each crop_and_resize (https://github.com/tensorflow/tensorflow/issues/56904).
            tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        tf.keras.mixed_precision.set_global_policy(PRECISIONS[self.precision])

    def check_classes(self, categories, where, remedy=None):
        """Checks that records or a checkpoint have as many classes as the configuration.

        Args:
            categories: Categories of the records or the checkpoint.
            where: Path of their folder, for the message.
            remedy: str, remedy for the message; by default to configure as many classes, which suits a new model only.
        Raises:
            UserError: Their number differs, or is 0.
        """
        if not categories:
            raise UserError(f"{where} has no classes: prepare the data again, from annotations that list categories")
        if len(categories) != self.num_classes:
            remedy = remedy or (
                f"add --gin_param NUM_CLASSES={len(categories)}, or --gin_file gin/options/fine_tune.gin, which takes "
                "it from the records"
            )
            raise UserError(f"{where} has {len(categories)} classes, but NUM_CLASSES = {self.num_classes}: {remedy}")

    def load_info(self, folder, remedy=None):
        """Returns the DatasetInfo of a folder of records, whose classes must be the configuration's.

        Args:
            folder: Path of the records.
            remedy: As in `check_classes`.
        Raises:
            UserError: The classes differ in number, or the folder holds no records.
        """
        info = load_info(folder)
        self.check_classes(info.categories, folder, remedy)
        return info
