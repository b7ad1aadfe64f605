"""The machine as an issue report describes it: processor, instruction sets, memory, disks, GPUs' driver.

It needs no package. What a system does not say is "unknown".
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from htc_tf import process_memory

UNKNOWN = "unknown"
# Instruction sets that matter to TensorFlow's kernels: a name, and its flag in /proc/cpuinfo on x86-64 and on ARM.
FEATURES = {
    "AVX2": "avx2",
    "FMA": "fma",
    "AVX-512": "avx512f",
    "AVX-512 VNNI": "avx512_vnni",
    "AVX-512 bf16": "avx512_bf16",
    "AMX bf16": "amx_bf16",
    "AMX int8": "amx_int8",
    "NEON": "asimd",
    "SVE": "sve",
    "bf16": "bf16",
}
X86_ONLY = ("AVX", "FMA", "AMX")  # how the names of x86-64's begin


def read(path):
    """Returns the text of a file, or "" if there is none."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def ask(*command):
    """Returns the output of a program, or "" if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def describe_processor():
    """Returns {name: value}: the model, the cores that this process may use, and the instruction sets."""
    text = read("/proc/cpuinfo") or ask("sysctl", "-a", "machdep.cpu")
    model = re.search(r"^(?:model name|machdep\.cpu\.brand_string)\s*: (.*)$", text, re.M)
    flags = re.search(r"^(?:flags|Features|machdep\.cpu\.(?:leaf7_)?features)\s*: (.*)$", text, re.M)
    present = set(flags[1].lower().split()) if flags else set()
    x86 = platform.machine() in ("x86_64", "AMD64")
    names = [name for name in FEATURES if name.startswith(X86_ONLY) == x86]
    return {
        "model": model[1].strip() if model else platform.processor() or UNKNOWN,
        "cores": describe_cores(),
        "has": ", ".join(name for name in names if FEATURES[name] in present) or (UNKNOWN if not present else "none"),
        "lacks": ", ".join(name for name in names if FEATURES[name] not in present) if present else UNKNOWN,
    }


def describe_cores():
    """Returns the number of cores, and of those that a control group grants."""
    cores = str(os.cpu_count() or UNKNOWN)
    quota = re.match(r"(\d+) (\d+)", read("/sys/fs/cgroup/cpu.max"))
    return f"{cores}, of which the control group grants {int(quota[1]) / int(quota[2]):g}" if quota else cores


def describe_memory():
    """Returns {name: value}: the memory that is available, with the limit of control groups, and the machine's."""
    left, total = process_memory.available_memory(), re.search(r"MemTotal:\s+(\d+)", read("/proc/meminfo"))
    size = 1024 * int(total[1]) if total else int(ask("sysctl", "-n", "hw.memsize") or 0)
    return {
        "available": UNKNOWN if left is None else format_bytes(left),
        "of the machine": format_bytes(size) if size else UNKNOWN,
    }


def describe_disk(folder):
    """Returns the free space where a folder is, or would be made."""
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = format_bytes(shutil.disk_usage(place).free)
    except OSError as error:
        return error.strerror or UNKNOWN
    return f"{free} free" + ("" if os.access(place, os.W_OK) else ", not writable")


def describe_driver():
    """Returns NVIDIA's GPUs with memory and driver as nvidia-smi reports them, or "none found"."""
    query = "name,memory.total,driver_version,compute_cap"
    lines = ask("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    return "; ".join(lines.splitlines()) or "none found"


def describe_system():
    """Returns {name: value}: the operating system and Python."""
    library = " ".join(platform.libc_ver()).strip()
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}" + (f", {library}" * bool(library)),
        "Python": f"{platform.python_version()}, {sys.executable}",
    }


def format_bytes(count):
    """Returns a number of bytes in GB, or in MB below one GB."""
    return f"{count / 1e9:.1f} GB" if abs(count) >= 1e9 else f"{count / 1e6:.1f} MB"
