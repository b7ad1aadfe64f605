"""Every command in a Python without the packages, or of another version, ends with one line."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from htc_tf import doctor, errors

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = sorted(
    f"{path.parent.name}.{path.stem}"
    for package in ("htc_tf", "pipelines")
    for path in (ROOT / package).glob("*.py")
    if "@command\ndef main" in path.read_text()
)

WITHOUT_PACKAGES = ("htc_tf.__main__", "htc_tf.doctor", "htc_tf.platforms")  # they work without any


def call(*arguments, **environment):
    """Runs a new Python without its site-packages."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=ROOT,
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_commands_are_found():
    assert {"htc_tf.train", "htc_tf.client", "htc_tf.browse", "pipelines.shapes"} <= set(COMMANDS)
    assert len(COMMANDS) >= 13


RUN = ["--gin_file", "gin/htc_shapes.gin", "--checkpoint", "nowhere", "--input", "a.jpg", "--output", "b.png"]
FLAGS = {
    "benchmark": ["--mode", "inference"],
    "browse": ["--records", "x", "--port", "0"],
    "convert": ["--source", "mmdet", "--weights", __file__, *RUN[:2], "--output", "y"],
    "eval": ["--predictions", "x", "--annotations", "y", "--output", "z"],
    "explain": RUN,
    "export": [*RUN[:4], *RUN[6:]],
    "preview": [*RUN[:2], "--records", "x", "--output", "y.png"],
    "serve_demo": ["--model", "nowhere", "--port", "0"],
    "train": [*RUN[:2], "--train_records", "x", "--workdir", "y"],
}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in WITHOUT_PACKAGES])
def test_a_python_without_the_packages_is_one_line(command):
    if (helped := call("-m", command, "--help")).returncode == 0:
        assert helped.stdout.startswith("usage: ")
    done = call("-m", command, *FLAGS.get(command.partition(".")[2], ["--help"]))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and not done.stdout
    if "nowhere" in line:
        return  # a mistake in the flags, which needs no package to be found
    assert re.match(r"error: this Python \(3\.\d+, .*\) is without the package \w+: ", line)
    assert ". .venv/bin/activate" in line and "make env" in line and sys.executable in line


def test_platforms_needs_no_package():
    done = call("-m", "htc_tf.platforms")
    assert done.returncode == 0 and done.stdout.startswith("tensorflow") and not done.stderr


def test_importing_the_package_changes_no_excepthook():
    """A program that imports htc_tf keeps its own excepthook and sees the error."""
    assert call("-c", "import htc_tf, pipelines, sys; assert sys.excepthook is sys.__excepthook__").returncode == 0
    done = call("-c", "import htc_tf; htc_tf.build('gin/htc_shapes.gin')")
    assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr


def test_a_missing_module_of_ours_is_a_traceback(capsys):
    errors._report_missing(ModuleNotFoundError, ModuleNotFoundError("no", name="htc_tf.x"), None)
    errors._report_missing(ValueError, ValueError("a bug"), None)
    printed = capsys.readouterr().err
    assert "ModuleNotFoundError: no" in printed and "ValueError: a bug" in printed and ".venv" not in printed


@pytest.mark.parametrize("version, why", [((3, 9, 18), "too old"), ((3, 14, 0), "too new")])
def test_a_python_of_another_version_is_one_line(version, why, monkeypatch, capsys):
    monkeypatch.setattr(errors.sys, "version_info", version)
    with pytest.raises(SystemExit) as ended:
        errors.start_command()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line and f"({version[0]}.{version[1]}, " in line and "3.10, 3.11, 3.12 or 3.13" in line


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 13, 9)])
def test_the_oldest_and_the_newest_python_start(version, monkeypatch):
    monkeypatch.setattr(errors.sys, "version_info", version)
    monkeypatch.setattr(errors.sys, "excepthook", sys.__excepthook__)
    errors.start_command()


PACKAGES = {"apache_beam.io": "prepare", "tensorboard": "train", "keras_cv": "train", "onnxruntime": "onnx"}
PACKAGES |= {"faster_coco_eval": "fast", "av": "video", "tensorflow": "cpu"}


@pytest.mark.parametrize("module", PACKAGES)
def test_a_missing_package_names_its_extra(module, capsys):
    with pytest.raises(SystemExit) as ended:
        errors._report_missing(ModuleNotFoundError, ModuleNotFoundError("no", name=module), None)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert f"without the package {module.partition('.')[0]}: `pip install 'htc_tf[{PACKAGES[module]}]'`" in line


SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def test_the_versions_are_those_of_setup_cfg():
    lowest, above = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", SETUP["options"]["python_requires"]).groups())
    assert ((3, lowest), (3, above - 1)) == (errors.OLDEST, errors.NEWEST)
    assert re.findall(r"3\.(\d+)", errors.PYTHONS) == [str(minor) for minor in range(lowest, above)]


def test_the_extras_are_those_of_setup_cfg():
    for module, extra in errors.EXTRAS.items():
        module = doctor.IMPORTED_AS.get(module, module)
        lines = SETUP["options.extras_require"][extra].replace("-", "_").splitlines()
        assert any(re.match(rf"{module}\b", line) for line in lines), module
