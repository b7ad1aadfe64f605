"""The folder of a run: which file is what, for the training that writes it and the commands that read it."""

import json
import os
from pathlib import Path

from htc_tf.errors import UserError


class Run:
    """RUN: config.gin, classes.json, metrics.jsonl, checkpoints/, best/, and TensorBoard's event files."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = self.folder / "config.gin"
        self.classes = self.folder / "classes.json"
        self.metrics = self.folder / "metrics.jsonl"
        self.checkpoints = self.folder / "checkpoints"
        self.lock = self.folder / "lock"
        self.failed_batch = self.folder / "failed_batch.npz"

    @property
    def best(self):
        """The Run of the best evaluation's weights alone: `--checkpoint RUN/best`, for every command."""
        return Run(self.folder / "best")

    def create(self, config, categories):
        """Writes what identifies the run: the resolved gin and the classes [{"id": ..., "name": ...}, ...]."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.config, config)
            write_whole(self.classes, json.dumps({"categories": list(categories)}, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written ({error.strerror}): name another folder") from error

    def read_config(self):
        return self._read(self.config)

    def read_categories(self):
        """[{"id": ..., "name": ...}, ...]: class index i is the i-th."""
        try:
            return json.loads(self._read(self.classes))["categories"]
        except (ValueError, KeyError) as error:
            raise UserError(f"{self.classes} is damaged ({error}); train again or copy it from a sound run") from error

    def _read(self, path):
        try:
            return path.read_text()
        except OSError as error:
            raise UserError(f"{path} is missing: --checkpoint must name the --workdir of a training run") from error


def write_whole(path, text):
    """Writes a file aside and renames it, so that whoever reads it, or is killed, never has half of it."""
    aside = path.with_name(path.name + ".aside")
    aside.write_text(text)
    os.replace(aside, path)
