"""Partial results: a file of the batches detected so far, from which a killed evaluation resumes.

`eval` keeps it beside its output and removes it once all results are saved in COCO's format. Each line is a batch; an
incomplete last line, which a kill leaves, is dropped. Results are restored bit for bit.
"""

import hashlib
import json
import sys

from htc_tf.run import write_whole


class PartialResults:
    """Results of one model on one data set, batch by batch in the order of detection."""

    def __init__(self, path, identity, together=1):
        """Reads the batches of an evaluation with the same identity, and opens the file for appending.

        Args:
            path: Path of the file.
            identity: Text that identifies the evaluation's weights, configuration and data.
            together: int, batches detected in one step; an incomplete step is dropped.
        Raises:
            OSError: The file cannot be written.
        """
        self.path = path
        head = json.dumps({"identity": identity})
        lines = []
        if path.exists():
            first, *rest = path.read_text(errors="replace").split("\n")[:-1] or [""]
            if first == head:
                lines = rest
            elif rest:
                whose = "an evaluation of other weights, configuration, data or devices"
                print(f"note: {path} replaced: {len(rest)} batches of {whose}", file=sys.stderr)
        self.entries = []  # (image ids, results in COCO's format) of each batch
        for line in lines:
            try:
                ids, results = json.loads(line)
            except (ValueError, TypeError):
                break
            self.entries.append((ids, results))
        del self.entries[len(self.entries) - len(self.entries) % together :]
        write_whole(path, "\n".join([head, *lines[: len(self.entries)]]) + "\n")
        self.file = path.open("a")

    @property
    def images(self):
        """Number of images detected so far."""
        return sum(len(ids) for ids, _ in self.entries)

    def write(self, ids, results):
        """Appends a batch and hands it to the operating system, where a kill of this process cannot lose it."""
        self.file.write(json.dumps([ids, results]) + "\n")
        self.file.flush()

    def remove(self):
        """Deletes the file, once all results are saved elsewhere."""
        self.file.close()
        self.path.unlink(missing_ok=True)


def identify(model, *texts):
    """Returns the SHA-256 digest of a model's weights and of texts."""
    digest = hashlib.sha256(json.dumps(texts).encode())
    for variable in model.variables:
        digest.update(variable.numpy())
    return digest.hexdigest()
