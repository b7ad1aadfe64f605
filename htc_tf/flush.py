"""Flushing of a written file, or of a folder's names, to permanent storage."""

import os

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def flush(descriptor):
    """Returns once the data of an open file are in permanent storage and survive a loss of power.

    On a Mac fsync gives them to the drive, which may keep them in a cache for a while; F_FULLFSYNC empties that cache.
    File systems without it, such as network shares, refuse it with one of several errors, and get fsync.

    Args:
        descriptor: int, of a file or folder.
    Raises:
        OSError: fsync failed.
    """
    if hasattr(fcntl, "F_FULLFSYNC"):
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError:
            pass
        else:
            return
    os.fsync(descriptor)
