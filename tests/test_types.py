"""Types: what a user's type checker sees of the Python interface, and that the checks find what they are for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PREDICTION = "htc_tf.inference.prediction.Prediction"
# The type of each expression, as a program with `import htc_tf` sees it.
TYPES = {
    'htc_tf.load("RUN")': "htc_tf.inference.predictor.Predictor",
    'htc_tf.load("RUN")("photo.jpg")': PREDICTION,
    'htc_tf.load("RUN")(["a.jpg", b"..."], tile=1024)': f"list[{PREDICTION}]",
    'htc_tf.load("RUN")("photo.jpg")[0].score': "float",
    'htc_tf.load("RUN")("photo.jpg")[:5]': PREDICTION,
    'htc_tf.load("RUN")("photo.jpg").to_coco()': "list[dict[str, Any]]",
    'htc_tf.build("a.gin")[0].detect(outputs)': "htc_tf.structures.Detections",
    'htc_tf.build("a.gin")[1](outputs, truth, sizes, seed)': "dict[str, htc_tf.models.htc_loss.Loss]",
}


def run(tool, *arguments, text=None):
    """Returns the output of `python -m TOOL`."""
    command = [sys.executable, "-m", tool, *arguments]
    variables = os.environ | {"MYPYPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=variables, input=text, capture_output=True, text=True).stdout


def mypy(folder, program):
    """Returns the lines that mypy prints of a user's program."""
    (folder / "program.py").write_text(program)
    return run("mypy", "--no-error-summary", str(folder / "program.py")).splitlines()


def test_a_program_sees_the_types(tmp_path):
    given = "import htc_tf\nfrom typing import Any\noutputs: Any\ntruth: Any\nsizes: Any\nseed: Any\n"
    program = given + "".join(f"reveal_type({expression})\n" for expression in TYPES)
    text = "\n".join(mypy(tmp_path, program)).replace("builtins.", "")
    text = re.sub(r"tuple\[[^][]*, fallback=([\w.]+)\]", r"\1", text)  # a NamedTuple
    found = re.findall(r'note: Revealed type is "(.*)"', text)
    assert dict(zip(TYPES, found, strict=True)) == TYPES


@pytest.mark.parametrize(
    ("program", "mistake"),
    [
        ("import htc_tf\nhtc_tf.load(5)", 'Argument 1 to "load" has incompatible type "int"'),
        ('import htc_tf\nhtc_tf.load("RUN").detects()', '"Predictor" has no attribute "detects"'),
        ("def f() -> int:\n    return ''", "Incompatible return value type"),
        ("def f(boxes) -> int:\n    return 1", "Function is missing a type annotation for one or more parameters"),
    ],
)
def test_mypy_finds_mistakes(program, mistake, tmp_path):
    (line,) = mypy(tmp_path, program)
    assert f": error: {mistake}" in line


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("htc_tf/ops/new.py", "def area(boxes):\n    return 1\n", ["ANN201"]),
        ("htc_tf/models/backbones/new.py", "class A:\n    def __init__(self, x):\n        pass\n", ["ANN204"]),
        ("htc_tf/weights/new.py", "def _area(boxes):\n    return 1\n", []),
        ("htc_tf/training/new.py", "def area(boxes):\n    return 1\n", []),
    ],
)
def test_public_functions_of_the_library_state_their_types(path, text, found):
    output = run("ruff", "check", "--output-format", "concise", "--stdin-filename", path, "-", text=text)
    assert re.findall(r"ANN\d+", output) == found


def test_the_package_says_that_it_has_types():
    """Without this file a user's type checker ignores them. The release check finds it in the wheel."""
    assert (ROOT / "htc_tf/py.typed").is_file()
    assert "\nhtc_tf = py.typed\n" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
