"""The folder of a run: which file is what, for the training that writes it and the commands that read it."""

import errno
import json
import os
import stat
from pathlib import Path

from htc_tf.errors import UserError

# Largest text files of a run, bytes: many times what a training writes. A run may come from elsewhere.
LARGEST_CONFIG = 2**18
LARGEST_CLASSES = 2**24


class Run:
    """RUN: config.gin, classes.json, metrics.jsonl, checkpoints/, best/, TensorBoard's event files."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = self.folder / "config.gin"
        self.classes = self.folder / "classes.json"
        self.metrics = self.folder / "metrics.jsonl"
        self.metrics_cut = self.folder / "metrics.cut.jsonl"
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
        return self._read(self.config, LARGEST_CONFIG)

    def read_categories(self):
        """[{"id": ..., "name": ...}, ...]: class index i is the i-th."""
        try:
            categories = json.loads(self._read(self.classes, LARGEST_CLASSES))["categories"]
            if not all(isinstance(row["id"], int) and isinstance(row["name"], str) for row in categories):
                raise ValueError("an id is no whole number, or a name is no text")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{self.classes} is damaged ({error}); train again or copy it from a sound run") from error
        return categories

    def _read(self, path, largest):
        try:
            # Opening a pipe does not wait for a writer, and a device without end is not read.
            with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode):
                    raise UserError(f"{path} is not a regular file; copy it from a sound run")
                if about.st_size > largest:
                    raise UserError(f"{path} has {about.st_size:,} bytes, more than the {largest:,} that are read")
                return file.read(largest).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is damaged ({error}); copy it from a sound run") from error
        except OSError as error:
            if self.folder.exists() and not self.folder.is_dir():
                raise UserError(f"{self.folder} is a file: name the folder of a training run, its --workdir") from error
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise UserError(f"{path} {reason}: name the folder of a training run, its --workdir") from error


def write_whole(path, text):
    """Writes a file aside and renames it: half of it is never seen, nor left by a crash or a loss of power."""
    aside = path.with_name(path.name + ".aside")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    os.replace(aside, path)
    sync(path.parent)


def sync(path):
    """Returns when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have no such call for folders
            raise
    finally:
        os.close(descriptor)
