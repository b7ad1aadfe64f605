"""Rules of the tree: files that can be read at once, gin files that ship, and nothing of a machine."""

import configparser
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_no_file_is_long():
    paths = [path for package in ("htc_tf", "pipelines") for path in (ROOT / package).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert len(lengths) > 100
    assert not {name: length for name, length in lengths.items() if length > 300}


def test_the_folder_of_gin_files_is_no_package_and_ships_whole():
    assert not list((ROOT / "gin").rglob("*.py"))  # gin/__init__.py would shadow the gin package
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    shipped = {pattern.strip() for pattern in setup["options.data_files"].values()}
    files = [path for path in (ROOT / "gin").rglob("*") if path.is_file()]
    assert {f"{path.parent.relative_to(ROOT).as_posix()}/*{path.suffix}" for path in files} <= shipped


def test_no_file_knows_a_machine_or_a_registry():
    """Read from what git tracks or would add: it is that which travels."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    private = re.compile(r"(?<![\w.}$*-])/(work|root|home|Users)/|pypi\.org|pythonhosted\.org|(index|find)-(url|links)")
    wrong = []
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
        except UnicodeDecodeError:
            continue  # a picture or an array
        wrong += [f"{name}:{i}: {line.strip()}" for i, line in enumerate(text.splitlines(), 1) if private.search(line)]
    assert not wrong
