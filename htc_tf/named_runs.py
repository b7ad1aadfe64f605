"""Runs by name: public weights, downloaded and converted to a run in the cache at their first use."""

import os
import sys
import tempfile
from pathlib import Path

from htc_tf import __version__, config
from htc_tf.errors import UserError
from htc_tf.run import Run
from htc_tf.weights.model_zoo import nearest
from htc_tf.weights.public_weights import WEIGHTS


def open_run(text):
    """Returns the Run that --checkpoint names.

    Args:
        text: str or Path, the folder of a run, or a name of `model_zoo.WEIGHTS`. An existing path wins over a name.
    Raises:
        UserError: The name is that of a backbone or resembles one of the table; or its file cannot be downloaded.
    """
    text = os.fspath(text)
    if Path(text).exists() or (text not in WEIGHTS and not nearest(text)):
        return Run(text)
    if text not in WEIGHTS:
        raise UserError(f"{text} is neither a run nor public weights; the nearest are {', '.join(nearest(text))}")
    weights = WEIGHTS[text]
    if weights.is_backbone:
        raise UserError(f"{text} is a backbone, not a detector: give it to htc_tf.train as --backbone_weights")
    return converted(weights)


def converted(weights):
    """Returns the Run in the cache that holds public weights; makes it if it is not there."""
    import pooch

    from htc_tf.weights.download import TEMPORARY, cache_folder, fetch, writing

    digest = weights.digest.rpartition(":")[2] if weights.digest else pooch.file_hash(fetch(weights))[:8]
    run = Run(cache_folder("runs") / f"{weights.name}-{digest}-{__version__}")
    if run.folder.exists():
        return run
    file = fetch(weights)
    experiment, resolved = config.load(weights.gin_files, [])
    from htc_tf.caller_state import preserve_caller_state
    from htc_tf.weights.conversion import convert

    with writing(run.folder.parent), tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=run.folder.parent) as folder:
        made = Run(Path(folder) / "run")
        with preserve_caller_state():
            convert(experiment, resolved, file, made, weights.source)
        try:
            made.folder.rename(run.folder)
        except OSError:
            if not run.folder.exists():  # else another process has just made it
                raise
    print(f"note: {weights.name} is converted to {run.folder}", file=sys.stderr)
    return run
