"""The tests that `make test` leaves out because they take long: the names in tests/long_tests.txt, one a line.

`tests/cpu_seconds.py` writes the file.
"""

from pathlib import Path

PATH = Path(__file__).with_suffix(".txt")


def read():
    """Returns the tests' names: "tests/test_a.py::test_b[c]"."""
    return PATH.read_text().splitlines()


def write(names):
    PATH.write_text("".join(f"{name}\n" for name in sorted(names)))


def mark(items):
    """Marks those of pytest's items that are listed as long.

    Returns:
        The listed names that none of the items has, though some are tests of the same file.
    """
    names, found = set(read()), {item.nodeid for item in items}
    for item in items:
        if item.nodeid in names:
            item.add_marker("long")
    files = {name.partition("::")[0] for name in found}
    return sorted(name for name in names - found if name.partition("::")[0] in files)
