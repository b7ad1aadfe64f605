"""Monitoring of a training: RUN/metrics.jsonl, TensorBoard event files, further sinks and the progress bar."""

import ast
import json
import math
import re
import sys
import time

import gin
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from htc_tf.progress import progress_bar
from htc_tf.run import sync, write_whole
from htc_tf.training.epochs import describe_epoch, epoch_of
from htc_tf.training.sinks import Sinks

# In the line of an evaluation.
PRINTED_METRICS = {"bbox/AP": "box AP", "segm/AP": "mask AP", "val_loss/total": "validation loss"}
# TensorBoard groups: everything else that a step returns, without a "/" in its name, is a loss.
UNGROUPED = ("epoch", "learning_rate", "gradient_norm", "loss_scale", "images_per_second", "input_wait")
UNGROUPED += ("evaluation_seconds",)  # type: ignore[assignment]  # a longer tuple


class Monitor:
    """Writes a run's metrics and images. A line of metrics.jsonl is complete once `log` has returned.

    Attributes:
        evaluations: {step: {name: number}}, the evaluations in metrics.jsonl.
    """

    def __init__(self, run, config, first_step, steps, batch_size, epoch_steps, chief=True):
        """
        Args:
            run: Run to write to.
            config: str, the resolved gin text.
            first_step: int, step that the run starts or resumes from. Lines of later steps, which are about to be
                repeated, and lines that a crash has damaged are moved to `run.metrics_cut`.
            steps: int, steps of the whole run.
            batch_size: int, images in a global batch.
            epoch_steps: int, steps of an epoch.
            chief: bool, False on the other workers of a training, which send nothing to further sinks.
        """
        self.path = run.metrics
        kept, cut = read_lines(self.path, first_step)
        if cut:
            with run.metrics_cut.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(line + "\n" for line in cut)
            sync(run.metrics_cut)
            print(
                f"note: lines of {self.path} moved to {run.metrics_cut.name}: {len(cut)}, which are damaged, or of "
                f"steps after {first_step}, which are repeated",
                file=sys.stderr,
            )
        write_whole(self.path, "".join(line + "\n" for line, _ in kept))
        self.evaluations = {record["step"]: record for _, record in kept if "total" not in record}
        self.writer = tf.summary.create_file_writer(str(run.folder), filename_suffix=f".{first_step}")
        with self.writer.as_default(step=first_step):
            tf.summary.text("gin/config", f"```\n{config}\n```")
            tf.summary.text("gin/operative_config", gin.markdown(gin.operative_config_str()))
            hparams.hparams(macros(config), trial_id=run.folder.resolve().name)
        self.sinks = Sinks(run.folder, macros(config), chief)
        self.bar = progress_bar(initial=first_step, total=steps, unit="step", desc="train")
        self.batch_size, self.epoch_steps = batch_size, epoch_steps
        self.restart_clock(first_step)

    def restart_clock(self, step):
        """Excludes the time until now, such as that of an evaluation, from the speed of training."""
        self.since, self.step, self.waited = time.perf_counter(), step, None

    def wait(self, iterator):
        """Returns the iterator's next element, and counts the time as waiting for input.

        A compiled loop takes the elements itself, and its waiting time is unknown: TensorFlow has no clock among
        deterministic operations.
        """
        before = time.perf_counter()
        element = next(iterator)
        self.waited = (self.waited or 0.0) + time.perf_counter() - before
        return element

    def advance(self, steps=1):
        epoch, epochs = (math.ceil(n / self.epoch_steps) for n in (self.bar.n + steps, self.bar.total))
        self.bar.set_description_str(f"train, epoch {epoch}/{epochs}", refresh=False)
        self.bar.update(steps)

    def describe(self, work):
        """Shows, in place of the epoch, what the run is about to do until the next `advance`."""
        self.bar.set_description_str(f"train, {work}")

    def print_line(self, line):
        """Prints a line on standard output, above the progress bar."""
        self.bar.write(line)
        sys.stdout.flush()

    def draw_graph(self, graph):
        """Writes the graph of the compiled step for TensorBoard."""
        with self.writer.as_default(step=self.step):
            tf.summary.graph(graph)

    def log(self, step, numbers):
        """Writes a step's numbers, {name: float}: every loss, their total, the learning rate and others."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rate = (step - self.step) * self.batch_size / seconds
        speed = {"images_per_second": rate}
        if self.waited is not None:
            speed["input_wait"] = self.waited / seconds
        self.restart_clock(step)
        self._append(step, {**numbers, **speed})
        self.bar.set_postfix_str(f"loss {numbers['total']:.3f}, {rate:.1f} img/s", refresh=False)

    def log_evaluation(self, step, metrics, images, best=None):
        """Writes an evaluation and prints a line about it.

        Args:
            step: int, step after which it was made.
            metrics: Metrics of the evaluator, `val_loss/NAME` for each loss on the validation records, and
                `evaluation_seconds`.
            images: {name: [H, W, 3] uint8}.
            best: Path of the folder of its weights if they are the best so far, or None.
        """
        # JSON has no NaN, such as a loss that overflows in float16.
        numbers = {key: value for key, value in metrics.items() if isinstance(value, float) and math.isfinite(value)}
        self.evaluations[step] = numbers
        self._append(step, numbers)
        with self.writer.as_default(step=step):
            for name, image in images.items():
                tf.summary.image(name, image[None])
        found = ", ".join(f"{name} {metrics[key]:.3f}" for key, name in PRINTED_METRICS.items() if key in metrics)
        line = f"{describe_epoch(step, self.epoch_steps)}: {found}, in {metrics['evaluation_seconds']:.0f} s"
        self.print_line(line + (f"; the best so far, saved in {best}" if best else ""))
        self.restart_clock(step)

    def _append(self, step, numbers):
        """Writes a line to metrics.jsonl and the same numbers for TensorBoard."""
        numbers = {"epoch": epoch_of(step, self.epoch_steps), **numbers}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")
        with self.writer.as_default(step=step):
            for name, value in numbers.items():
                grouped = name in UNGROUPED or "/" in name
                tf.summary.scalar(name if grouped else f"loss/{name}", value)
        self.writer.flush()
        self.sinks.log(step, numbers)

    def sync(self):
        """Returns when all lines are on the disk."""
        sync(self.path)

    def close(self):
        self.bar.close()
        self.writer.close()
        self.sinks.close()


def read_lines(path, last_step):
    """Returns [(line, record), ...] of the steps up to `last_step`, and [line, ...] of later steps and damaged ones."""
    kept, cut = [], []
    lines = path.read_text("utf-8", errors="surrogateescape").split("\n") if path.exists() else []
    for line in filter(None, lines):
        try:
            record = json.loads(line.encode())  # a line that is not UTF-8 is damaged
            good = all(type(value) in (int, float) for value in record.values()) and record["step"] <= last_step
        except (ValueError, KeyError, AttributeError, RecursionError):
            good = False
        if good:
            kept.append((line, record))
        else:
            cut.append(line)
    return kept, cut


def macros(config):
    """Returns {name: value} of the macros in a resolved gin text, for TensorBoard's table of hyperparameters."""
    found = {}
    for name, text in re.findall(r"^([A-Z][A-Z0-9_]*) = (.+)$", config, re.MULTILINE):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            continue
        found[name] = value if isinstance(value, (bool, int, float, str)) else text
    return found
