"""Memory of this process and of its children, in bytes on every system."""

import sys
from pathlib import Path


def peak_bytes(children=False):
    """Returns the most memory that this process, or the largest of its ended children, has held."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # a Mac counts bytes, Linux KiB


def resident_bytes():
    """Returns the memory that this process holds now, or its peak where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_bytes()
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])
