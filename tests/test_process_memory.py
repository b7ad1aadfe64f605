"""Memory of a process: its unit is the system's, and it needs no /proc."""

import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from htc_tf import process_memory


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_unit_of_the_peak_depends_on_the_system(monkeypatch, system, unit):
    """The system reports KiB on Linux and bytes on a Mac."""
    asked = {resource.RUSAGE_SELF: 3000, resource.RUSAGE_CHILDREN: 5000}
    monkeypatch.setattr(process_memory, "sys", SimpleNamespace(platform=system))
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=asked[who]))
    assert process_memory.peak_bytes() == 3000 * unit
    assert process_memory.peak_bytes(children=True) == 5000 * unit


def test_memory_without_proc_is_the_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(process_memory, "Path", lambda path: tmp_path / "no proc")
    monkeypatch.setattr(process_memory, "peak_bytes", lambda: 7)
    assert process_memory.resident_bytes() == 7


def test_memory_is_in_bytes():
    """A process with an array of 100 MB holds more than that, and less than ten times as much."""
    subprocess.run([sys.executable, "-S", "-c", "bytearray(b'x') * 100_000_000"], check=True)
    for found in (process_memory.peak_bytes(), process_memory.resident_bytes()):
        assert 2**22 < found < 2**35
    assert 1e8 < process_memory.peak_bytes(children=True) < 2**35
