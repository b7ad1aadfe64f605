"""glibc's limits on freed memory are set once, and its arenas are limited to one, where there is glibc."""

import ctypes
import subprocess
import sys

import pytest

from htc_tf import freed_memory

MIB = 2**20


@pytest.fixture
def keep():
    """The function without its memory of earlier calls."""
    return freed_memory.keep_freed_memory.__wrapped__


class Library:
    """A C library that records the calls of mallopt."""

    def __init__(self):
        self.calls = []

    def mallopt(self, name, value):
        self.calls.append((name, value))
        return 1


@pytest.fixture
def use(monkeypatch):
    """A function of a platform and a C library, which the module then finds."""

    def use(platform, library):
        monkeypatch.setattr(freed_memory.sys, "platform", platform)
        monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: library)
        return library

    return use


def test_the_limits(keep, use):
    library = use("linux", Library())
    keep()
    assert library.calls == [(-3, 32 * MIB), (-1, 64 * MIB)]


@pytest.mark.parametrize("platform, library", [("darwin", Library()), ("linux", object())])
def test_nothing_without_glibc(keep, use, platform, library):
    use(platform, library)
    keep()
    assert not getattr(library, "calls", [])


@pytest.mark.parametrize("variable, calls", [(None, [(-8, 1)]), ("4", [])])
def test_one_arena(use, monkeypatch, variable, calls):
    library = use("linux", Library())
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if variable:
        monkeypatch.setenv("MALLOC_ARENA_MAX", variable)
    freed_memory.share_arena()
    assert library.calls == calls


TRAIN = "--gin_file a.gin --train_records b --workdir c"


@pytest.mark.parametrize("at, module, words", [("train", "train", TRAIN), ("measurement", "benchmark", "--mode train")])
def test_it_is_chosen_before_tensorflow_starts_threads(at, module, words):
    code = (
        f"import sys\nfrom htc_tf import {at} as at, {module} as command\n"
        "at.share_arena = lambda: sys.exit('late' if 'tensorflow' in sys.modules else 'early')\ncommand.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, timeout=100)
    assert done.stderr.split() == ["early"]


def test_glibc_takes_the_limits():
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        pytest.skip("needs glibc")
    assert library.mallopt(freed_memory.M_MMAP_THRESHOLD, 32 * MIB) == 1
    assert library.mallopt(freed_memory.M_TRIM_THRESHOLD, 64 * MIB) == 1


def test_a_training_sets_them_after_its_iterator(monkeypatch):
    """TensorFlow sets its own when the first iterator is created."""
    from htc_tf.training import loop

    order = []

    class Batches:
        def __iter__(self):
            order.append("iterator")
            return iter([])

    class Built(Exception):
        """Ends the construction after the iterator."""

    def end(*_):
        raise Built

    class Part:
        """Stands for the step, the experiment and all other parts."""

        def numpy(self):
            return 0

    monkeypatch.setattr(loop, "distribute", lambda *_: Batches())
    monkeypatch.setattr(loop, "keep_freed_memory", lambda: order.append("limits"))
    monkeypatch.setattr(loop, "make_train_step", end)
    with pytest.raises(Built):
        loop.Loop(**dict.fromkeys(loop.Loop.__dataclass_fields__, Part()))
    assert order == ["iterator", "limits"]
