"""The experiment: everything that gin decides, gathered in one place that every command builds first.

A path or a seed identifies a run and is a flag; what defines the model and its training is here.
"""

import contextlib

import gin
import tensorflow as tf

from htc_tf.data.datasets import load_info
from htc_tf.errors import UserError
from htc_tf.ranges import FLAG, check_ranges, choice, number, optional, whole

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@gin.configurable
@check_ranges(
    num_classes=whole(1),
    batch_size=whole(1),
    steps=whole(),
    clip_norm=optional(number(above=0)),
    precision=choice(*PRECISIONS),
    xla=FLAG,
    deterministic=FLAG,
    threads_per_operation=whole(),
    log_every=whole(),
    checkpoint_every=whole(),
    evaluate_every=whole(),
    keep_checkpoints=whole(1),
    accumulate=whole(1),
    steps_per_loop=whole(1),
    ema_decay=optional(number(0, below=1)),
    skip_non_finite=whole(),
)
class Experiment:
    """The parts of a run, constructed but without any variable yet."""

    def __init__(
        self,
        build_model,
        objective,
        train_input,
        eval_input,
        optimizer,
        num_classes,
        batch_size,
        steps,
        clip_norm=None,
        precision="float32",
        xla=False,
        deterministic=False,
        threads_per_operation=0,
        log_every=50,
        checkpoint_every=1000,
        evaluate_every=0,
        keep_checkpoints=3,
        keep_best=None,
        accumulate=1,
        steps_per_loop=1,
        ema_decay=None,
        skip_non_finite=0,
    ):
        """
        Args:
            build_model: -> HTC; called under the strategy, where its variables belong.
            objective: an HTCLoss.
            train_input, eval_input: Inputs.
            optimizer: a recipe, such as SGD; its `build` is called under the strategy.
            num_classes: thing classes; the records must have as many.
            batch_size: global, over all replicas.
            steps: of the whole training.
            clip_norm: bound of the gradients' global norm, or None.
            precision: "float32", or "bfloat16" or "float16" for convolutions and products (boxes, losses stay float32).
            xla: compile forward and backward into one XLA computation.
            deterministic: same seed, same numbers, bit for bit; ops with racing additions run in one thread.
            threads_per_operation: CPU threads that one operation is split among; 0 is all there are. With 1, operations
                run side by side instead, which wastes less where they are small.
            log_every, checkpoint_every, evaluate_every: in steps; 0 is never (a last checkpoint is always written).
            keep_checkpoints: how many of the newest stay.
            keep_best: a metric of the evaluation, such as "segm/AP"; the weights that were best at it stay in RUN/best.
            accumulate: how many parts a batch is learnt in, one after the other in the memory of one.
            steps_per_loop: steps in one call of TensorFlow, which saves the way back to Python between them.
            ema_decay: of the moving averages of the weights, such as 0.9998, which evaluation, predict and export then
                use; or None.
            skip_non_finite: how many steps that are not finite are passed over in the whole run before it stops.
        """
        if keep_best is not None and not evaluate_every:
            raise UserError(f"Experiment.keep_best = {keep_best!r} wants evaluations: give EVALUATE_EVERY")
        self.build_model, self.objective, self.optimizer = build_model, objective, optimizer
        self.train_input, self.eval_input = train_input, eval_input
        self.num_classes, self.batch_size, self.steps, self.clip_norm = num_classes, batch_size, steps, clip_norm
        self.precision, self.xla, self.deterministic = precision, xla, deterministic
        self.threads_per_operation = threads_per_operation
        self.log_every, self.checkpoint_every, self.evaluate_every = log_every, checkpoint_every, evaluate_every
        self.keep_checkpoints, self.keep_best = keep_checkpoints, keep_best
        self.accumulate, self.steps_per_loop = accumulate, steps_per_loop
        self.ema_decay, self.skip_non_finite = ema_decay, skip_non_finite

    def set_threads(self):
        """Before TensorFlow's first tensor; where it has started already, it keeps the threads that it has."""
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(self.threads_per_operation)

    def prepare_runtime(self, seed):
        """Sets what is global in TensorFlow. Before any model is built."""
        tf.keras.utils.set_random_seed(seed)
        if self.deterministic:
            tf.config.experimental.enable_op_determinism()
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if not gpus:
            # Grappler gains nothing measurable here on a CPU, takes long over a graph of this size, and prints a screen
            # of warnings for each crop_and_resize (https://github.com/tensorflow/tensorflow/issues/56904).
            tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        tf.keras.mixed_precision.set_global_policy(PRECISIONS[self.precision])

    def check_classes(self, categories, where, remedy=None):
        """The records (or a checkpoint) and the configuration must agree on the classes before step 1.

        Args:
            categories: of the records or the checkpoint.
            where: their folder.
            remedy: what a user can do; by default to configure as many classes, which only a new model can have.
        Raises:
            UserError: their number is another.
        """
        if not categories:
            raise UserError(f"{where} has no classes: prepare the data again, from annotations that list categories")
        if len(categories) != self.num_classes:
            raise UserError(
                f"{where} has {len(categories)} classes, but NUM_CLASSES = {self.num_classes}: "
                + (remedy or f"add --gin_param NUM_CLASSES={len(categories)}")
            )

    def load_info(self, folder, remedy=None):
        """Loads the DatasetInfo of a folder of records, whose classes must be the configuration's.

        Args:
            folder: Path of the records.
            remedy: As of `check_classes`.
        Raises:
            UserError: The classes differ in number, or the folder holds no records.
        """
        info = load_info(folder)
        self.check_classes(info.categories, folder, remedy)
        return info
