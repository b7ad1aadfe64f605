"""What an evaluation has detected so far, on disk while it goes on, so that an evaluation that is killed can go on.

Before: `eval` opens it beside its output. After: `inference.detect_records` takes what is there and adds what is new;
once all is saved in COCO's format the journal goes. A line is a batch, whole once its end is written; what follows the
last whole line, a kill's half, is dropped. Results come back as they were, bit for bit.
"""

import hashlib
import json
import sys

from htc_tf.run import write_whole


class PartialResults:
    """Detections of one model on one data set, batch by batch in the order of detection."""

    def __init__(self, path, identity, together=1):
        """Reads what is there, if it has the same identity, and opens the file to go on.

        Args:
            path: a Path.
            identity: text that tells this evaluation from all others: weights, configuration, data.
            together: how many batches are detected in one step; a step that is not complete is dropped.
        Raises:
            OSError: it cannot be written.
        """
        self.path = path
        head = json.dumps({"identity": identity})
        lines = []
        if path.exists():
            first, *rest = path.read_text(errors="replace").split("\n")[:-1] or [""]
            if first == head:
                lines = rest
            elif rest:
                whose = "an evaluation of other weights, configuration or data"
                print(f"note: {path} replaced: {len(rest)} batches of {whose}", file=sys.stderr)
        self.entries = []  # ([ids of images], [results in COCO's format])
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
        return sum(len(ids) for ids, _ in self.entries)

    def write(self, ids, results):
        """Adds a batch; it is with the system when this returns."""
        self.file.write(json.dumps([ids, results]) + "\n")
        self.file.flush()

    def remove(self):
        """All is saved elsewhere."""
        self.file.close()
        self.path.unlink(missing_ok=True)


def identify(model, *texts):
    """The SHA-256 of a model's weights and of some texts."""
    digest = hashlib.sha256(json.dumps(texts).encode())
    for variable in model.variables:
        digest.update(variable.numpy())
    return digest.hexdigest()
