"""What a run tells while it trains: RUN/metrics.jsonl, TensorBoard's event files, and the progress bar."""

import json
import sys
import time

import tensorflow as tf
from tqdm import tqdm


def progress(iterable=None, **options):
    """A progress bar with rate and ETA; in a log file, where it cannot redraw itself, a line now and then."""
    interval = 0.2 if sys.stderr.isatty() else 15
    return tqdm(iterable, mininterval=interval, dynamic_ncols=True, **options)


class Monitor:
    """Records a run's numbers and pictures. A line of metrics.jsonl is complete once `log` has returned."""

    def __init__(self, run, config, first_step, steps, batch_size):
        """
        Args:
            run: a Run.
            config: the resolved gin, as text.
            first_step: the step that the run starts or resumes from; lines of later steps are dropped, since those
                steps are going to be done again.
            steps, batch_size: of the whole run.
        """
        self.path = run.metrics
        kept = []
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first_step]
        self.path.write_text("".join(line + "\n" for line in kept))
        self.writer = tf.summary.create_file_writer(str(run.folder), filename_suffix=f".{first_step}")
        with self.writer.as_default(step=first_step):
            tf.summary.text("gin/config", f"```\n{config}\n```")
        self.bar = progress(initial=first_step, total=steps, unit="step", desc="train")
        self.batch_size = batch_size
        self.since, self.step = time.perf_counter(), first_step

    def advance(self):
        self.bar.update(1)

    def log(self, step, numbers):
        """numbers: {name: float}, among them every loss, its total and the learning rate."""
        now = time.perf_counter()
        rate = (step - self.step) * self.batch_size / max(now - self.since, 1e-9)
        self.since, self.step = now, step
        record = {"step": step, **numbers, "images_per_second": rate}
        self._append(record)
        with self.writer.as_default(step=step):
            for name, value in numbers.items():
                tf.summary.scalar(name if name in ("learning_rate", "gradient_norm") else f"loss/{name}", value)
            tf.summary.scalar("images_per_second", rate)
        self.bar.set_postfix(loss=f"{numbers['total']:.3f}", refresh=False)

    def log_evaluation(self, step, metrics, pictures):
        """metrics: of the evaluator; pictures: uint8 arrays [H, W, 3], truth beside prediction."""
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        self._append({"step": step, **numbers})
        with self.writer.as_default(step=step):
            for name, value in numbers.items():
                tf.summary.scalar(name, value)
            for index, picture in enumerate(pictures):
                tf.summary.image(f"truth and prediction/{index}", picture[None])
        # Evaluation's time is not training's.
        self.since, self.step = time.perf_counter(), step

    def _append(self, record):
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.writer.flush()

    def close(self):
        self.bar.close()
        self.writer.close()
