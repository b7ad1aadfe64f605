"""The best weights of a training by one number of its evaluations: RUN/best, a run that every command takes.

Called by `training.trainer` after each evaluation; the weights are those that were evaluated, averaged where the run
averages.
"""

import sys

from htc_tf.checkpoint import Checkpoints
from htc_tf.errors import UserError


class Best:
    """Keeps the weights that were best at `metric`, across restarts."""

    def __init__(self, run, metric, config, categories):
        """
        Args:
            run: the training's Run.
            metric: a key of the evaluator's metrics, larger is better; or None to keep nothing.
            config, categories: as for Run.create.
        """
        self.run, self.metric, self.config, self.categories = run.best, metric, config, categories

    def offer(self, step, metrics, model):
        """Saves the model if the metrics are better than any before. Returns whether they are.

        Raises:
            UserError: the evaluation has no such metric.
        """
        if self.metric is None:
            return False
        value = metrics.get(self.metric)
        if not isinstance(value, float):
            known = ", ".join(name for name, other in metrics.items() if isinstance(other, float))
            raise UserError(f"Experiment.keep_best = {self.metric!r} is no metric of the evaluation; there are {known}")
        checkpoints = Checkpoints(self.run, model, keep=1)
        _, problems = checkpoints.files.newest_whole()
        if value <= checkpoints.read_manifest().get("metrics", {}).get(self.metric, float("-inf")):
            return False
        if problems:
            print(f"note: {'; '.join(problems)}: step {step} replaces it", file=sys.stderr)
        self.run.create(self.config, self.categories)
        checkpoints.save(step, metrics={self.metric: value})
        checkpoints.files.remove(lambda number: number > step)  # of steps that a resumed training did again
        return True
