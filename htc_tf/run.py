"""The folder of a run: names and contents of its files, written by training and read by all commands."""

import contextlib
import errno
import json
import os
import re
import stat
from pathlib import Path

from htc_tf import formats
from htc_tf.errors import UserError
from htc_tf.flush import flush

# Largest sizes that are read, in bytes: many times what a training writes. A run may come from an untrusted source.
MAX_CONFIG_BYTES = 2**18
MAX_CLASSES_BYTES = 2**24

# The first line of config.gin, a comment for gin. Runs of before the format numbers have none.
HEADER = "# htc_tf run, format {}\n"


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
        """The Run that holds the weights of the best evaluation: `--checkpoint RUN/best`, for every command."""
        return Run(self.folder / "best")

    def create(self, config, categories):
        """Writes the resolved gin text and the classes, [{"id": ..., "name": ...}, ...], into a new or old folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.config, HEADER.format(formats.RUN) + config)
            write_whole(self.classes, json.dumps({"categories": list(categories)}, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written ({error.strerror}): name another folder") from error

    def check_exists(self):
        """Raises a UserError, the same line for every command, unless the path is a folder."""
        if not self.folder.is_dir():
            problem = "is a file" if self.folder.exists() else "is missing"
            raise UserError(f"{self.folder} {problem}: name the folder of a training run, its --workdir")

    def read_config(self):
        """Returns the resolved gin text, without the line of its format number."""
        text = self._read(self.config, MAX_CONFIG_BYTES)
        header = re.match(HEADER.format(r"(\d{1,9})").replace("\n", r"\r?\n"), text)
        formats.check(header and int(header[1]), formats.RUN, self.config)
        return text[header.end() :] if header else text

    def read_categories(self):
        """Returns [{"id": ..., "name": ...}, ...]; a class index counts from 0 in this list."""
        text = self._read(self.classes, MAX_CLASSES_BYTES)
        return parse_categories(text, self.classes, "train again or copy it from an intact run")

    def _read(self, path, max_bytes):
        self.check_exists()
        try:
            # O_NONBLOCK: opening a pipe does not wait for a writer. Only regular files of limited size are read.
            with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise UserError(f"{path} is not a regular file; copy it from an intact run")
                if status.st_size > max_bytes:
                    raise UserError(f"{path} has {status.st_size:,} bytes, more than the {max_bytes:,} that are read")
                return file.read(max_bytes).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is damaged ({error}); copy it from an intact run") from error
        except OSError as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise UserError(f"{path} {reason}: name the folder of a training run, its --workdir") from error


def parse_categories(text, path, advice):
    """Returns [{"id": ..., "name": ...}, ...] of the content of a classes.json, of a run or an export.

    Raises:
        UserError: It is damaged; the message names the path and ends with the advice.
    """
    try:
        categories = json.loads(text)["categories"]
        if not isinstance(categories, list):
            raise ValueError("its categories are not a list")
        if not all(type(row["id"]) is int and isinstance(row["name"], str) for row in categories):
            raise ValueError("an id is not an integer, or a name is not a string")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {advice}") from error
    return categories


def write_whole(path, text):
    """Writes a file atomically, through a file beside it: a crash or a loss of power leaves the old or the new one.

    A link stays one, and the file that it names is written. A device or a pipe, such as /dev/stdout, is written to.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = Path(os.path.realpath(path))
    aside = path.with_name(path.name + ".aside")
    try:
        aside.write_text(text, encoding="utf-8")
        sync(aside)
        os.replace(aside, path)
    except OSError:  # such as a full disk
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    sync(path.parent)


def sync(path):
    """Returns once a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flush(descriptor)
    except OSError as error:
        # Some file systems cannot sync folders; ENOTSUP and EOPNOTSUPP differ on a Mac.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)
