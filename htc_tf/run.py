"""The folder of a run: which file is what, for the training that writes it and the commands that read it."""

import json
from pathlib import Path

from htc_tf.errors import UserError


class Run:
    """RUN: config.gin, classes.json, metrics.jsonl, checkpoints/, and TensorBoard's event files."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = self.folder / "config.gin"
        self.classes = self.folder / "classes.json"
        self.metrics = self.folder / "metrics.jsonl"
        self.checkpoints = self.folder / "checkpoints"

    def create(self, config, categories):
        """Writes what identifies the run: the resolved gin and the classes [{"id": ..., "name": ...}, ...]."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.config.write_text(config)
            self.classes.write_text(json.dumps({"categories": list(categories)}, indent=1) + "\n")
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
