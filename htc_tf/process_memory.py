"""Memory of this process, of its children and of the machine, in bytes."""

import re
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


def available_memory():
    """Returns the bytes that the system and this process's control groups have available, or None if unknown."""
    left = []
    try:
        left.append(1024 * int(re.search(r"^MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)[1]))
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except (OSError, TypeError):
        groups = []
    for line in groups:
        _, controllers, name = line.split(":", 2)
        if not controllers:  # version 2 has one hierarchy without names, version 1 one per controller
            left += _group_left(Path("/sys/fs/cgroup"), name, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            left += _group_left(Path("/sys/fs/cgroup/memory"), name, *files)
    return min(left, default=None)


def _group_left(root, name, limit, usage, reclaimable):
    """Yields the bytes that a control group and each of its parents have left, if they have a limit."""
    folder = root / name.strip("/")
    for group in (folder, *folder.parents):
        if group == root.parent:
            return
        try:
            most, used = int((group / limit).read_text()), int((group / usage).read_text())
            cached = re.search(rf"^{reclaimable} (\d+)", (group / "memory.stat").read_text(), re.M)
        except (OSError, ValueError):  # missing, as in a container; or "max"
            continue
        # The kernel reclaims cached files before it kills a process.
        yield most - used + (int(cached[1]) if cached else 0)
