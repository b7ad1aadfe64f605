"""Commands of the README and of docs/: every flag and value parses, gin files exist, and gin bindings load."""

import importlib
import inspect
import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest

from htc_tf import config

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page):
    """Yields the arguments after `python -m` of each command in a page's shell blocks."""
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if "python -m " in line and not line.lstrip().startswith("#"):
                words = shlex.split(line.partition("python -m ")[2], comments=True)
                ends = [i for i, word in enumerate(words) if word in {"|", "&&", ";", ">", "&"}]
                yield words[: min(ends, default=len(words))]


COMMANDS = [
    pytest.param(words, id=f"{page.name}-{number}-{words[0]}")
    for page in PAGES
    for number, words in enumerate(commands(page))
    if words[0].partition(".")[0] in ("htc_tf", "pipelines", "tests") and "..." not in words
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_the_docs_parses(words, monkeypatch):
    name, *arguments = words
    module = importlib.import_module(f"{name}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else name)
    parse = getattr(module, "parse", None)
    if parse is None or parse.__module__ != module.__name__:
        pytest.skip("has no parser of its own")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    parse(arguments) if inspect.signature(parse).parameters else parse()
    files = [ROOT / path for path in re.findall(r"(?<=--gin_file )gin/\S+", " ".join(arguments))]
    assert all(path.is_file() for path in files)


def gin_bindings():
    """Returns the distinct (gin files, gin parameters) of the trainings in the docs."""
    found = {}
    for (words,) in (case.values for case in COMMANDS):
        if words[0] in ("htc_tf.train", "htc_tf.preview"):
            values = {flag: [b for a, b in itertools.pairwise(words) if a == flag] for flag in words}
            files, params = (tuple(values.get(f"--{flag}", ())) for flag in ("gin_file", "gin_param"))
            if all(path.startswith("gin/") for path in files):
                found[files, params] = None
    return list(found)


@pytest.mark.parametrize("files, params", gin_bindings())
def test_the_configuration_of_a_training_in_the_docs_loads(files, params):
    config.load([str(ROOT / path) for path in files], list(params))
