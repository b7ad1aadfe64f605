"""A plugin of pytest that lists the test files that took the most CPU-seconds, those of their processes included.

make test ARGS="-p tests.cpu_seconds"
"""

import os
from collections import Counter

import pytest

from tests import forks

ROWS = 60
SPENT = Counter()  # {file: CPU-seconds}
_last = 0.0


def _spent():
    return sum(os.times()[:4]) + forks.server_seconds()


def pytest_collection_finish():
    global _last
    _last = _spent()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Attaches what was spent since the last report, which a process of pytest-xdist sends to the first one."""
    global _last
    report = (yield).get_result()
    now = _spent()
    report.cpu_seconds, _last = now - _last, now


def pytest_runtest_logreport(report):
    SPENT[report.nodeid.partition("::")[0]] += report.cpu_seconds


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section(f"{SPENT.total():.0f} CPU-seconds")
    for name, seconds in SPENT.most_common(ROWS):
        terminalreporter.write_line(f"{seconds:7.1f} {name}")
