"""The experiment: everything that gin decides, gathered in one place that every command builds first.

A path or a seed identifies a run and is a flag; what defines the model and its training is here.
"""

import contextlib

import gin
import tensorflow as tf

from htc_tf.errors import UserError

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@gin.configurable
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
    ):
        """
        Args:
            build_model: -> HTC; called under the strategy, where its variables belong.
            objective: an Objective.
            train_input, eval_input: Inputs.
            optimizer: a recipe, such as SGD; its `build` is called under the strategy.
            num_classes: thing classes; the records must have as many.
            batch_size: global, over all replicas.
            steps: of the whole training.
            clip_norm: bound of the gradients' global norm, or None.
            precision: "float32", or "bfloat16" for convolutions and products (boxes, losses stay float32).
            xla: compile forward and backward into one XLA computation.
            deterministic: same seed, same numbers, bit for bit; ops with racing additions run in one thread.
            threads_per_operation: CPU threads that one operation is split among; 0 is all there are. With 1, operations
                run side by side instead, which wastes less where they are small.
            log_every, checkpoint_every, evaluate_every: in steps; 0 is never (a last checkpoint is always written).
            keep_checkpoints: how many of the newest stay.
        """
        if precision not in PRECISIONS:
            raise UserError(f"PRECISION = {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
        self.build_model, self.objective, self.optimizer = build_model, objective, optimizer
        self.train_input, self.eval_input = train_input, eval_input
        self.num_classes, self.batch_size, self.steps, self.clip_norm = num_classes, batch_size, steps, clip_norm
        self.precision, self.xla, self.deterministic = precision, xla, deterministic
        self.threads_per_operation = threads_per_operation
        self.log_every, self.checkpoint_every, self.evaluate_every = log_every, checkpoint_every, evaluate_every
        self.keep_checkpoints = keep_checkpoints

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

    def check_classes(self, categories, where):
        """The records (or a checkpoint) and the configuration must agree on the classes before step 1."""
        if len(categories) != self.num_classes:
            raise UserError(
                f"{where} has {len(categories)} classes, but NUM_CLASSES = {self.num_classes}: "
                f"add --gin_param NUM_CLASSES={len(categories)}"
            )
