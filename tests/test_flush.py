"""Flushing: the drive's cache on a Mac, fsync elsewhere and on file systems that refuse the former."""

import errno
import os
from types import SimpleNamespace

import pytest

from htc_tf import flush

FULL = 51  # F_FULLFSYNC of a Mac


@pytest.fixture
def calls(monkeypatch):
    """The calls of fcntl and fsync; `on_a_mac(error)` makes F_FULLFSYNC exist and raise the error."""
    made = SimpleNamespace(found=[])

    def on_a_mac(error=None):
        def fcntl(descriptor, command):
            made.found.append((descriptor, command))
            if error:
                raise error

        monkeypatch.setattr(flush, "fcntl", SimpleNamespace(F_FULLFSYNC=FULL, fcntl=fcntl))

    made.on_a_mac = on_a_mac
    monkeypatch.setattr(flush, "fcntl", SimpleNamespace())
    monkeypatch.setattr(os, "fsync", lambda descriptor: made.found.append((descriptor, "fsync")))
    return made


def test_a_mac_flushes_the_drive(calls):
    calls.on_a_mac()
    flush.flush(7)
    assert calls.found == [(7, FULL)]


@pytest.mark.parametrize("name", ["ENOTSUP", "EINVAL", "ENOTTY"])  # of network shares, WebDAV and ZFS
def test_a_file_system_of_a_mac_that_cannot_is_synced(calls, name):
    calls.on_a_mac(OSError(getattr(errno, name), ""))
    flush.flush(7)
    assert calls.found == [(7, FULL), (7, "fsync")]


@pytest.mark.parametrize("fcntl", [None, SimpleNamespace()])
def test_other_systems_sync(calls, monkeypatch, fcntl):
    monkeypatch.setattr(flush, "fcntl", fcntl)
    flush.flush(7)
    assert calls.found == [(7, "fsync")]


def test_a_failed_sync_is_an_error(calls, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "")

    calls.on_a_mac(OSError(errno.EIO, ""))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        flush.flush(7)
