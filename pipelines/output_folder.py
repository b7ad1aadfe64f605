"""The folder of the records: one job at a time writes to it, and none replaces files that it has not written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from htc_tf import lock
from htc_tf.errors import UserError

from . import files, lvis, merged_file
from .plan import FOLDER, LINES, PLAN_FILE

LOCK_FILE = "lock"
INFO_FILE = "dataset_info.json"
# What a job writes to the folder itself, by patterns.
WRITTEN = (PLAN_FILE, INFO_FILE, "report.json", "rejected.jsonl", merged_file.FILE, lvis.FILE, "*-of-*.tfrecord")
KEYS = {"version", "options", "inputs"}  # of the plan and of the dataset's info


def refuse_foreign(output: str) -> None:
    """Refuses a folder with files that a job would replace, unless a job has written them.

    Such a folder has the lines of a plan, or an intact plan or dataset's info.
    """
    found = [name for pattern in WRITTEN for name in files.names(output, pattern)]
    if not found or files.names(files.join(output, FOLDER), LINES):
        return
    contents = (files.read_json(files.join(output, name)) for name in (PLAN_FILE, INFO_FILE))
    if not any(isinstance(content, dict) and content.keys() >= KEYS for content in contents):
        raise UserError(
            f"--output {output} holds a {found[0]} that this command has not written: give another folder, or move "
            "the file away"
        )


@contextlib.contextmanager
def reserve(output: str) -> Iterator[None]:
    """Keeps other jobs out of a folder on this machine while the block writes to it.

    Raises:
        UserError: Another job is writing there, or a file cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        if not files.is_remote(output):
            busy = f"--output {output} is being written by {{holder}}: wait for it, or give another folder"
            # Without write permission the lock fails, but if the folder is complete, nothing has to be written.
            with contextlib.suppress(OSError):
                stack.enter_context(lock.hold(Path(output, LOCK_FILE), busy))
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{files.describe_error(error, output)}; finished shards are kept: fix this, then run the same "
                "command to continue"
            ) from error
