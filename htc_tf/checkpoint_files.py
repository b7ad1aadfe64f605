"""Files of RUN/checkpoints: acknowledging, verifying, finding and removing checkpoints.

ckpt-N consists of ckpt-N.index, ckpt-N.data-* and the manifest ckpt-N.json. Saving writes, each to the disk before the
next: the manifest with `"files": null`; TensorFlow's files; the manifest with the size and SHA-256 of every file, which
acknowledges the checkpoint; and TensorFlow's own list, the file `checkpoint`. A crash or a loss of power at any point
leaves either an acknowledged checkpoint or one whose manifest says that it is not.

TensorFlow's list is written for other programs and never read: a partial copy or a loss of power may have damaged it.
Checkpoints without hashes, of earlier versions or of other programs, are read completely, which verifies TensorFlow's
own checksums.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from htc_tf import formats
from htc_tf.errors import UserError, reason_of
from htc_tf.run import sync, write_whole

STEP = "step/.ATTRIBUTES/VARIABLE_VALUE"  # TensorFlow's name of a training's step, which numbers its checkpoints
READ_ERRORS = (tf.errors.OpError, ValueError, IndexError, RuntimeError)  # TensorFlow raises these on damaged files
# TensorFlow takes the path of a file that it reads as a pattern. * and ? match themselves.
PATTERN = re.compile(r"\\|\[.+\]", re.DOTALL)


def check_path(path: str | os.PathLike, content: str) -> None:
    """Refuses a path that TensorFlow would write to, and not find again.

    Raises:
        UserError: The path is a pattern.
    """
    if PATTERN.search(os.fspath(path)):
        raise UserError(
            f"{path}: TensorFlow cannot read {content} from a path with [ and ] or with a backslash: rename the "
            "folder, or name another"
        )


class CheckpointFiles:
    """Finds, acknowledges and removes the checkpoints of one folder."""

    def __init__(self, folder):
        """
        Raises:
            UserError: TensorFlow could write checkpoints in the folder, but not read them.
        """
        self.folder = Path(folder)
        check_path(folder, "checkpoints")
        self.state = self.folder / "checkpoint"  # TensorFlow's list
        self._problems = {}  # by number: the problem, or None if intact; each file is verified once

    def prefix(self, number):
        """Returns the path by which TensorFlow names a checkpoint."""
        return self.folder / f"ckpt-{number}"

    def manifest(self, number):
        """Returns the content of ckpt-N.json; empty if it is missing or damaged."""
        try:
            content = json.loads(_manifest_path(self.prefix(number)).read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def numbers(self):
        """Returns the numbers of all checkpoints that are not known to be unfinished, ascending."""
        found = {}
        for number, path in self._numbered():
            found.setdefault(number, []).append(path.suffix)
        return sorted(
            number
            for number, suffixes in found.items()
            # An earlier version left a manifest alone when it was killed before TensorFlow's first file.
            if not self._unfinished(number) and (suffixes != [".json"] or self._hashes(number))
        )

    def problem(self, number):
        """Returns a line that names the missing or damaged file of a checkpoint, or None if it is intact.

        Raises:
            UserError: A file cannot be read, so nothing is known about its content, or a newer htc_tf wrote it.
        """
        if number not in self._problems:
            formats.check(self.manifest(number).get("format"), formats.CHECKPOINT, _manifest_path(self.prefix(number)))
            try:
                self._problems[number] = self._find_problem(number)
            except OSError as error:
                raise UserError(f"{error.filename} cannot be read ({error.strerror})") from error
        return self._problems[number]

    def newest_intact(self):
        """Returns the number of the newest intact checkpoint, or None, and the problems of later ones, newest first."""
        problems = []
        for number in reversed(self.numbers()):
            problem = self.problem(number)
            if problem is None:
                return number, problems
            problems.append(problem)
        return None, problems

    def tensorflow_files(self, number):
        """Returns the paths of a checkpoint's files, without its manifest, sorted."""
        return sorted(path for other, path in self._numbered() if other == number and path.suffix != ".json")

    def begin(self, number, manifest):
        """Marks a checkpoint as unfinished, before TensorFlow writes it."""
        self.sweep()
        self.folder.mkdir(parents=True, exist_ok=True)
        sync(self.folder.parent)
        self._write_manifest(number, {"format": formats.CHECKPOINT, "step": number, **manifest, "files": None})

    def acknowledge(self, number):
        """Acknowledges a checkpoint that TensorFlow has written; returns once all of it is on the disk."""
        files = {}
        for path in self.tensorflow_files(number):
            sync(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        sync(self.folder)
        self._write_manifest(number, {**self.manifest(number), "files": files})
        self._problems[number] = None

    def rotate(self, number, keep):
        """Removes all checkpoints before the newest `keep` up to `number`; 0 or None keeps all. Writes the list."""
        kept = [other for other in self.numbers() if other <= number][-(keep or 0) :]
        self.remove(lambda other: other < min(kept, default=0))

    def remove(self, condition):
        """Removes the checkpoints whose numbers meet the condition, and writes TensorFlow's list of the others."""
        for number, path in self._numbered():
            if condition(number):
                path.unlink(missing_ok=True)
        self._write_state()

    def sweep(self):
        """Removes unfinished checkpoints, left by a process that was killed or had no space, and nothing else."""
        for path in self.folder.glob("*"):
            if path.is_dir() and re.match(r"ckpt-\d+_temp", path.name):  # TensorFlow's temporary folder
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix == ".aside":
                path.unlink(missing_ok=True)
        unfinished = {number for number, _ in self._numbered() if self._unfinished(number)}
        if unfinished:
            # The manifest last: it marks the others as unfinished.
            for number, path in sorted(self._numbered(), key=lambda item: item[1].suffix == ".json"):
                if number in unfinished:
                    path.unlink(missing_ok=True)

    def repair_state(self):
        """Rewrites TensorFlow's list, with a note, if it does not name the newest intact checkpoint."""
        number, _ = self.newest_intact()
        if number is None:
            return
        try:
            named = re.match(r'model_checkpoint_path: "(?:.*/)?ckpt-(\d+)"', self.state.read_text())
        except (OSError, ValueError):
            named = None
        if named is None or int(named[1]) != number:
            try:
                self._write_state()
            except OSError as error:
                raise UserError(f"{self.state} cannot be written ({error.strerror}): move it away") from error
            print(
                f"note: {self.state} did not name the newest intact checkpoint, ckpt-{number}: repaired",
                file=sys.stderr,
            )

    def _numbered(self):
        """Yields (number, path) of every file of a checkpoint, in no order."""
        for path in list(self.folder.glob("ckpt-*")):  # a list, since callers remove files
            match = re.fullmatch(r"ckpt-(\d+)\.(?:index|json|data-\d+-of-\d+)", path.name)
            if match and path.is_file():
                yield int(match[1]), path

    def _unfinished(self, number):
        manifest = self.manifest(number)
        return "files" in manifest and manifest["files"] is None

    def _hashes(self, number):
        """Returns {path: (bytes, SHA-256)} of an acknowledged checkpoint; empty without a complete manifest."""
        try:
            files = self.manifest(number).get("files") or {}
            hashes = {self.folder / Path(name).name: (row["bytes"], row["sha256"]) for name, row in files.items()}
        except (AttributeError, KeyError, TypeError):
            return {}
        # A manifest that lists only some of the files, or another checkpoint's, proves nothing about this one.
        prefix, shards = self.prefix(number), len(hashes) - 1
        data = {Path(f"{prefix}.data-{shard:05}-of-{shards:05}") for shard in range(shards)}
        return hashes if shards and hashes.keys() == {Path(f"{prefix}.index"), *data} else {}

    def _find_problem(self, number):
        hashes = self._hashes(number)
        if not hashes:
            return self._read(number)
        problem = self._compare(hashes)
        if problem is not None and self._read(number) is None:
            name = _manifest_path(self.prefix(number)).name
            print(
                f"note: {problem}, or {name} is: all values match TensorFlow's checksums and are used", file=sys.stderr
            )
            return None
        return problem

    def _compare(self, hashes):
        for path, (size, sha256) in hashes.items():
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != size:
                return f"{path} is damaged: {path.stat().st_size} of {size} bytes"
            if hash_file(path) != sha256:
                return f"{path} is damaged: its bytes differ from those saved"
        return None

    def _read(self, number):
        """Returns the problem of a checkpoint without hashes, or None: reads every value, which checks its checksum."""
        prefix = self.prefix(number)
        index = Path(f"{prefix}.index")
        if not index.is_file():
            return f"{index} is missing"
        try:
            reader = tf.train.load_checkpoint(str(prefix))
            names = list(reader.get_variable_to_shape_map())
        except READ_ERRORS as error:
            return f"{index} is damaged: {reason_of(str(error))}"
        data = [path for path in self.tensorflow_files(number) if path.suffix != ".index"]
        if not data:
            return f"{prefix}.data-* is missing"
        for name in names:
            try:
                value = reader.get_tensor(name)
            except READ_ERRORS as error:
                return f"{' or '.join(map(str, data))} is damaged: {reason_of(str(error))}"
            if name == STEP and (np.ndim(value) or value != number):
                return f"{prefix} is damaged: it holds step {value}"
        return None

    def _write_manifest(self, number, content):
        write_whole(_manifest_path(self.prefix(number)), json.dumps(content, indent=1) + "\n")

    def _write_state(self):
        """Writes TensorFlow's list, the text of a CheckpointState protocol buffer."""
        newest, _ = self.newest_intact()
        if newest is not None:
            lines = [f'model_checkpoint_path: "ckpt-{newest}"']
            lines += [f'all_model_checkpoint_paths: "ckpt-{number}"' for number in self.numbers()]
            write_whole(self.state, "\n".join(lines) + "\n")


def _manifest_path(prefix):
    return Path(f"{prefix}.json")


def hash_file(path):
    """Returns the hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
