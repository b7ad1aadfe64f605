"""A `tf.keras.Model` around the detector, for code that trains by `compile`, `fit`, `evaluate` and `predict`.

    experiment, resolved = config.load(["gin/htc_r50_fpn_1x_coco.gin"], [], train_records="records/train")
    model = KerasModel(experiment)
    model.compile()
    model.fit(experiment.train_input.dataset("records/train", seed=0), steps_per_epoch=experiment.epoch_steps, epochs=12)

Keras calls the compiled step of `htc_tf.train`: losses and weights are the same. docs/training.md has more.
"""

import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.errors import UserError
from htc_tf.run import Run
from htc_tf.training.first_weights import initialize
from htc_tf.training.loop import sync_batch_norm_stats
from htc_tf.training.optim import attach_schedule
from htc_tf.training.step import make_train_step


class KerasModel(tf.keras.Model):
    """An Experiment's HTC, `htc`, for Keras; its data are the datasets of the Experiment's Inputs.

    `fit` and `evaluate` report the mean of each loss over an epoch, and of their sum, `loss`. `predict` returns a dict:
    the `image_ids` and the fields of the Detections. The Experiment clips and accumulates gradients and chooses XLA.
    """

    def __init__(self, experiment, seed=0):
        """Builds the network under the current tf.distribute.Strategy.

        Args:
            experiment: Experiment.
            seed: int, seed of the weights and every random choice.
        Raises:
            UserError: The experiment averages its weights, which only `htc_tf.train` does.
        """
        if experiment.ema_decay is not None:
            raise UserError("Experiment.ema_decay is for python -m htc_tf.train: set it to None for a KerasModel")
        experiment.prepare_runtime(seed)
        super().__init__(name="keras_htc", dtype="float32")  # under float16 Keras would scale the loss a second time
        self.experiment, self.seed, self.means = experiment, seed, Means()
        self.htc = experiment.build_model()
        self.htc.build_variables()
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")

    def load_first(self, init_from=None, backbone_weights=None):
        """Sets the first weights, as the flags of `htc_tf.train` do, and returns their source."""
        return initialize(Checkpoints(Run(""), self.htc), self.htc, None, init_from, backbone_weights)

    def compile(self, optimizer=None, **options):
        """Sets a Keras optimizer, by default the Experiment's, with its schedule and weight decay."""
        optimizer = self.experiment.optimizer.build() if optimizer is None else tf.keras.optimizers.get(optimizer)
        if not isinstance(optimizer, tf.keras.optimizers.Optimizer):
            raise UserError(f"{type(self.experiment.optimizer).__name__} is no optimizer of Keras: give SGD or AdamW")
        if not hasattr(optimizer, "schedule"):
            attach_schedule(optimizer, lambda _: optimizer.learning_rate)
        super().compile(optimizer, **options)
        optimizer.build(self.htc.trainable_variables)

    # Keras' own functions take a batch inside tf.function, where the padded shape of the images is unknown.

    def make_train_function(self, force=False):
        if force or self.train_function is None:
            step = make_train_step(
                self.experiment, self.distribute_strategy, self.htc, self.optimizer, self.step, self.seed
            )

            def train_function(iterator):
                numbers = step(next(iterator))
                self._train_counter.assign_add(1)  # the step of TensorBoard's callback
                return self.means.add(numbers)

            self.train_function = train_function
        return self.train_function

    def make_predict_function(self, force=False):
        if force or self.predict_function is None:
            detect = tf.function(lambda batch: self.distribute_strategy.run(self.predict_step, (batch,)), autograph=False)
            self.predict_function = lambda iterator: join(self.distribute_strategy, detect(next(iterator)))
        return self.predict_function

    def predict_step(self, batch):
        detections = self.htc.infer(batch.images, batch.sizes)._asdict()
        return {"image_ids": batch.image_ids, **{k: v for k, v in detections.items() if v is not None}}

    def reset_metrics(self):
        self.means.reset()

    def save_run(self, folder, config, categories):
        """Writes a run, from which every command reads the weights and the classes."""
        sync_batch_norm_stats(self.htc)
        run = Run(folder)
        run.create(config, categories)
        Checkpoints(run, self.htc).save(int(self.step.numpy()))


class Means:
    """The running means of named numbers since the last reset."""

    def reset(self):
        self.sums, self.count = {}, 0

    def add(self, numbers):
        """Adds the numbers of a batch and returns the means."""
        self.count += 1
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in numbers.items()}
        return {name: value / self.count for name, value in self.sums.items()}
