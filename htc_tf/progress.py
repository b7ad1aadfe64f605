"""The progress bar of all long work, with its rate and the time left."""

import sys

from tqdm import tqdm

TERMINAL_INTERVAL = 0.2  # seconds between updates
LOG_INTERVAL = 15


def progress_bar(iterable=None, **options):
    """A tqdm bar with a rate and an ETA.

    A log file keeps every update as a line of its own, so there is one only every `LOG_INTERVAL` seconds.

    Args:
        iterable: Elements to count, or None to count with `update`.
        **options: Arguments of `tqdm.tqdm`: `total`, `unit`, `desc`, ...
    Returns:
        A `tqdm.tqdm`.
    """
    interval = TERMINAL_INTERVAL if sys.stderr.isatty() else LOG_INTERVAL
    return tqdm(iterable, mininterval=interval, dynamic_ncols=True, **options)
