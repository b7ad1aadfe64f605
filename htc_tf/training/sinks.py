"""Further sinks of a training's numbers beside TensorBoard: Weights & Biases and MLflow, named by HTC_TF_LOG_TO.

    HTC_TF_LOG_TO=wandb,mlflow python -m htc_tf.train ...

Each is configured by its own environment variables, such as WANDB_PROJECT and MLFLOW_TRACKING_URI. A resumed training
continues the same run of the service, whose id is in RUN/sinks.json. A service that fails ends no training.
"""

import importlib
import json
import os
import sys

from htc_tf.errors import UserError, printable
from htc_tf.run import write_whole

VARIABLE = "HTC_TF_LOG_TO"
IDS = "sinks.json"  # {name of a sink: id of its run}


class WandbSink:
    """A run of Weights & Biases; `package` is the module wandb."""

    def __init__(self, package, folder, settings, run_id):
        self.package = package
        # The settings of a resumed run may differ.
        self.run = package.init(
            name=folder.name, dir=folder, config=settings, id=run_id, resume="allow", allow_val_change=True
        )
        # Steps are repeated after a kill, and wandb's own count of steps never goes back.
        self.run.define_metric("*", step_metric="step")
        self.run_id = self.run.id

    def log(self, step, numbers):
        self.run.log({"step": step, **numbers})

    def close(self):
        self.run.finish()
        self.package.teardown()  # waits until its process has written everything, offline too


class MLflowSink:
    """A run of MLflow; `package` is the module mlflow."""

    def __init__(self, package, folder, settings, run_id):
        self.package = package
        self.run_id = package.start_run(run_id=run_id, run_name=folder.name).info.run_id
        if run_id is None:  # MLflow refuses another value of a parameter
            package.log_params(settings)

    def log(self, step, numbers):
        self.package.log_metrics(numbers, step=step)

    def close(self):
        self.package.end_run()


SINKS = {"wandb": WandbSink, "mlflow": MLflowSink}


class Sinks:
    """All sinks of a training: one that fails is reported in a line and gets no more numbers."""

    def __init__(self, folder, settings, chief=True):
        """
        Args:
            folder: Path of the run.
            settings: {name: value}, the hyperparameters.
            chief: bool, False on the other workers of a training, which have no sinks.
        Raises:
            UserError: HTC_TF_LOG_TO names an unknown sink, or one whose package is not installed.
        """
        self.open, path = {}, folder / IDS
        named = os.environ.get(VARIABLE, "") if chief else ""
        names = [name.strip() for name in named.split(",") if name.strip()]
        packages = {name: load_package(name) for name in names}
        ids = read_ids(path) if names else {}
        for name, package in packages.items():
            self.attempt(name, lambda name=name, package=package: self._start(name, package, folder, settings, ids))
        if self.open:
            write_whole(path, json.dumps({**ids, **{name: sink.run_id for name, sink in self.open.items()}}) + "\n")

    def _start(self, name, package, folder, settings, ids):
        self.open[name] = SINKS[name](package, folder, settings, ids.get(name))

    def log(self, step, numbers):
        """Sends {name: float} to every sink."""
        for name, sink in list(self.open.items()):
            self.attempt(name, lambda sink=sink: sink.log(step, numbers))

    def close(self):
        for name, sink in list(self.open.items()):
            self.attempt(name, sink.close)

    def attempt(self, name, call):
        try:
            call()
        except Exception as error:  # of any kind: services raise their own, of networks, accounts and quotas
            self.open.pop(name, None)
            reason = printable(" ".join(str(error).split())[:300])
            print(f"warning: {name} gets no more numbers of this training: {reason}", file=sys.stderr)


def load_package(name):
    """Returns the package of a sink."""
    if name not in SINKS:
        raise UserError(f"{VARIABLE}={name}: give {' or '.join(SINKS)}, or both with a comma")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{VARIABLE}={name}: `pip install 'htc_tf[{name}]'` brings the package ({error})") from error


def read_ids(path):
    """Returns {name: id} of a run that is resumed; empty for a new one, or if the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: run_id for name, run_id in content.items() if isinstance(run_id, str)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
