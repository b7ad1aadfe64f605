"""A `tf.keras.Model` around the detector, for those who train with Keras' `compile`, `fit`, `evaluate` and `predict`.

    experiment, resolved = config.load(["gin/htc_r50_fpn_1x_coco.gin"], [], train_records="records/train")
    model = KerasModel(experiment, resolved, "records/train", "RUN")
    model.compile()
    model.fit(model.train_dataset(), steps_per_epoch=model.epoch_steps, epochs=12)
    model.save_run()

Keras calls the compiled step of `htc_tf.train`: losses and weights are the same. docs/training.md has more.
"""

import collections

import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.cluster import check_batch
from htc_tf.errors import UserError
from htc_tf.freed_memory import keep_freed_memory
from htc_tf.record_settings import steps_per_epoch
from htc_tf.run import Run
from htc_tf.training.checks import check_determinism, check_labels, check_length, check_run, check_supervision
from htc_tf.training.first_weights import initialize
from htc_tf.training.frozen import describe_start
from htc_tf.training.loop import distribute, sync_batch_norm_stats
from htc_tf.training.optim import attach_schedule
from htc_tf.training.step import make_train_step
from htc_tf.training.validation_losses import make_losses

NOT_LOSSES = {"total", "finite", "gradient_norm", "learning_rate", "loss_scale"}  # of a step's numbers
RATE_CALLBACKS = (tf.keras.callbacks.LearningRateScheduler, tf.keras.callbacks.ReduceLROnPlateau)


class KerasModel(tf.keras.Model):
    """An HTC, `htc`, for Keras. The Experiment decides on clipping, accumulation, precision and XLA, as in `train`.

    `fit` and `evaluate` report each loss over the images of the epoch, and the sum of all as `loss`; `predict` returns
    {"image_ids": [images], ...} with the fields of Detections.
    """

    def __init__(self, experiment, config, train_records, workdir, seed=0, init_from=None, backbone_weights=None):
        """Builds the network under the current tf.distribute.Strategy and sets its first weights.

        Args:
            experiment, config: Experiment and str, the resolved gin text, as `config.load` returns them.
            train_records: Folder of the training records.
            workdir: Folder of the run that `save_run` writes; if it has a checkpoint, the weights are restored from it.
            seed: int, seed of the weights, the order of the data and every random choice.
            init_from, backbone_weights: First weights, as in `first_weights.initialize`.
        Raises:
            UserError: Records, configuration and weights do not fit, or only `htc_tf.train` supports the configuration.
        """
        if experiment.ema_decay is not None:
            raise UserError("Experiment.ema_decay needs python -m htc_tf.train: set it to None for a KerasModel")
        check_length(experiment)
        check_batch(experiment.batch_size, experiment.accumulate, tf.distribute.get_strategy().num_replicas_in_sync)
        info = experiment.load_info(train_records)
        experiment.prepare_runtime(seed)
        super().__init__(name="keras_htc", dtype="float32")  # under float16 Keras would scale the loss a second time
        self.experiment, self.config, self.records, self.seed = experiment, config, train_records, seed
        self.run, self.htc = Run(workdir), experiment.build_model()
        check_labels(self.htc, info)
        check_supervision(self.htc, info)
        check_run(experiment, self.run, info)
        self.htc.build_variables()
        check_determinism(experiment, self.htc)
        checkpoints = Checkpoints(self.run, self.htc)
        source = initialize(
            checkpoints,
            self.htc,
            init_from=init_from,
            backbone_weights=backbone_weights,
            configured=experiment.backbone_weights,
            class_names=info.class_names,
        )
        first_step = checkpoints.held or 0
        self.step = tf.Variable(first_step, dtype=tf.int64, trainable=False, name="step")
        self.epoch_steps = steps_per_epoch(info.records, experiment.batch_size)
        self.categories = [{"id": c.id, "name": c.name} for c in info.categories]
        self.losses_of = make_losses(experiment, self.htc)
        self.detect = tf.function(self.htc.infer, jit_compile=experiment.xla, autograph=False)
        self.scheduled = False  # True if the compiled optimizer has the configuration's schedule
        self.reset_metrics()
        print(describe_start(self.htc, source, first_step), flush=True)

    def compile(self, optimizer=None):
        """Sets a Keras optimizer, by default the Experiment's with its schedule and weight decay."""
        with self.distribute_strategy.scope():
            name = type(self.experiment.optimizer).__name__
            if optimizer is not None and not isinstance(optimizer, str):
                name = f"{type(optimizer).__module__}.{type(optimizer).__name__}"
            optimizer = self.experiment.optimizer.build() if optimizer is None else tf.keras.optimizers.get(optimizer)
            if not isinstance(optimizer, tf.keras.optimizers.Optimizer):
                raise UserError(f"Keras cannot use {name}: choose SGD or AdamW")
            self.scheduled = hasattr(optimizer, "schedule")
            if not self.scheduled:
                attach_schedule(optimizer, lambda _: optimizer.learning_rate)
            optimizer.build(self.htc.trainable_variables)
        optimizer.iterations.assign(self.step)
        super().compile(optimizer)

    def fit(self, *args, **options):
        """As Keras' own.

        Raises:
            UserError: A callback sets the learning rate, which the configuration's schedule sets in each step.
        """
        callbacks = options.get("callbacks") or ()
        for callback in callbacks if isinstance(callbacks, (list, tuple)) else ():
            if isinstance(callback, RATE_CALLBACKS) and self.scheduled:
                raise UserError(
                    f"{type(callback).__name__} has no effect on the configuration's schedule: leave it out, or give "
                    "compile an optimizer of Keras"
                )
        return super().fit(*args, **options)

    def train_dataset(self):
        """Returns the endless batches of the training records from the next step on, for `fit`."""
        return distribute(self.distribute_strategy, self.experiment, self.records, self.seed, int(self.step.numpy()))

    def test_step(self, batch):
        return {name: (loss.weight * loss.total, loss.count) for name, loss in self.losses_of(batch).items()}

    def predict_step(self, batch):
        fields = self.detect(batch.images, batch.sizes)._replace(stage_masks=None)._asdict()
        return {"image_ids": batch.image_ids, **{name: value for name, value in fields.items() if value is not None}}

    # Keras' own three functions take the batch inside of a graph, where the images have no static shape.

    def make_train_function(self, force=False):
        if force or self.train_function is None:
            strategy, optimizer = self.distribute_strategy, self.optimizer
            train_step = make_train_step(self.experiment, strategy, self.htc, optimizer, self.step, self.seed)

            def train_function(iterator):
                keep_freed_memory()
                numbers = train_step(next(iterator))
                self._train_counter.assign_add(1)  # the step of Keras' TensorBoard callback
                losses = {name: value for name, value in numbers.items() if "/" not in name and name not in NOT_LOSSES}
                return self.add_to_means({name: (value, 1.0) for name, value in losses.items()})

            self.train_function = train_function
        return self.train_function

    def make_test_function(self, force=False):
        if force or self.test_function is None:
            sums = self.on_replicas(self.test_step, lambda parts: tf.reduce_sum(tf.stack(parts), axis=0))
            self.test_function = lambda iterator: self.add_to_means(sums(next(iterator)))
        return self.test_function

    def make_predict_function(self, force=False):
        if force or self.predict_function is None:
            found = self.on_replicas(self.predict_step, lambda parts: tf.concat(parts, axis=0))
            self.predict_function = lambda iterator: found(next(iterator))
        return self.predict_function

    def on_replicas(self, step, join):
        """Compiles a replica's step; `join` makes one tensor of the replicas' tensors."""
        strategy = self.distribute_strategy

        @tf.function(autograph=False)
        def joined(batch):
            found = strategy.run(step, args=(batch,))
            return tf.nest.map_structure(lambda value: join(strategy.experimental_local_results(value)), found)

        return joined

    def add_to_means(self, terms):
        """Adds {name: (sum, count)} of a batch to those so far. Returns the means and their sum, `loss`."""
        for name, pair in terms.items():
            self.sums[name] += tf.stack(pair)
        means = {name: total / tf.maximum(count, 1.0) for name, (total, count) in self.sums.items()}
        return {"loss": tf.add_n(list(means.values())), **means}

    def reset_metrics(self):
        """Called by Keras at the start of an epoch and of an evaluation."""
        self.sums = collections.defaultdict(float)  # {name: [sum, count]}

    @property
    def metrics_names(self):
        return ["loss", *self.sums]

    def save(self, *_, **__):
        raise UserError("a KerasModel saves its weights alone: by save_run, save_weights or save_weights_only=True")

    def save_weights(self, filepath, *args, **options):
        if str(filepath).endswith(".h5"):
            raise UserError(f"{filepath}: Keras' HDF5 files leave layers in nested lists out: give a name without .h5")
        super().save_weights(filepath, *args, **options)

    def save_run(self):
        """Writes the run in `workdir`, which all commands read and `htc_tf.train` continues.

        Raises:
            UserError: The run has a checkpoint of a later step, which commands would read instead.
        """
        number, keep = int(self.step.numpy()), self.experiment.keep_checkpoints
        checkpoints = Checkpoints(self.run, self.htc, self.optimizer, self.step, keep)
        newest, _ = checkpoints.files.newest_intact()
        if newest is not None and newest > number:
            raise UserError(
                f"{self.run.folder} has a checkpoint of step {newest}, which all commands would read in place of these "
                f"weights of step {number}: move {checkpoints.files.prefix(newest)}.* away"
            )
        sync_batch_norm_stats(self.htc)
        self.run.create(self.config, self.categories)
        checkpoints.save(number)
