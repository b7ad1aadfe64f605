"""A plugin of pytest that lists the test files that took the most CPU-seconds, those of their processes included.

    make test ARGS="-p tests.cpu_seconds"

With --write_long, the tests that took more than LONG seconds by themselves, without the fixtures that they share, are
written to tests/long_tests.txt, in place of those that were listed and ran:

    make test ARGS="-m 'not slow' -p tests.cpu_seconds --write_long"
"""

import os
from collections import Counter

import pytest

from tests import forks, long_tests

ROWS = 60
LONG = 2.0  # CPU-seconds
SPENT = Counter()  # {file: CPU-seconds}
OWN = Counter()  # {test: CPU-seconds without those of shared fixtures}
_last = 0.0
_shared = 0.0  # CPU-seconds of shared fixtures since the last report
_depth = 0  # fixtures that are being set up, one inside the other


def _spent():
    return sum(os.times()[:4]) + forks.server_seconds()


def pytest_addoption(parser):
    parser.addoption("--write_long", action="store_true", help=f"write the tests of over {LONG} CPU-seconds to a file")


def pytest_collection_finish():
    global _last
    _last = _spent()


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef):
    """Counts what a fixture of more than one test takes, with those that it asks for."""
    global _depth, _shared
    if fixturedef.scope == "function":
        yield
        return
    before, _depth = _spent(), _depth + 1
    yield
    _depth -= 1
    if not _depth:
        _shared += _spent() - before


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Attaches what was spent since the last report, which a process of pytest-xdist sends to the first one."""
    global _last, _shared
    report = (yield).get_result()
    now = _spent()
    report.cpu_seconds, report.own_seconds = now - _last, now - _last - _shared
    _last, _shared = now, 0.0


def pytest_runtest_logreport(report):
    SPENT[report.nodeid.partition("::")[0]] += report.cpu_seconds
    OWN[report.nodeid] += report.own_seconds


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section(f"{SPENT.total():.0f} CPU-seconds")
    for name, seconds in SPENT.most_common(ROWS):
        terminalreporter.write_line(f"{seconds:7.1f} {name}")
    if config.getoption("--write_long"):
        found = [name for name, seconds in OWN.items() if seconds > LONG]
        kept = [name for name in long_tests.read() if name not in OWN]
        long_tests.write(kept + found)
        terminalreporter.write_line(f"{long_tests.PATH}: {len(kept + found)} tests, {sum(OWN[n] for n in found):.0f} s")
