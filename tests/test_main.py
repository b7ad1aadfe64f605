"""htc-tf: every command under one name, with its own flags, messages and completion."""

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

from htc_tf import __main__ as program
from htc_tf import command_line

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path(sys.executable).with_name("htc-tf")


def run(*words, cwd=ROOT, **environment):
    command = [sys.executable, "-m", "htc_tf", *words]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def modules_with_a_parser(folder):
    return {path.stem for path in (ROOT / folder).glob("*.py") if "@command\ndef main" in path.read_text()}


def test_every_command_is_listed():
    assert set(program.HERE) == modules_with_a_parser("htc_tf")
    assert set(program.PREPARATION) == modules_with_a_parser("pipelines")
    listed = run("--help").stdout
    assert all(f"\n  {name} " in listed for name in program.COMMANDS)


def test_the_script_is_installed_under_its_name():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.entry_points"]["console_scripts"].split() == [program.NAME, "=", "htc_tf.__main__:main"]


def test_every_package_is_installed_and_the_preparation_inside_htc_tf():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    paths = [
        path.parent.relative_to(ROOT)
        for name in ("htc_tf", "pipelines")
        for path in ROOT.glob(f"{name}/**/__init__.py")
    ]
    names = {".".join(path.parts) for path in paths}
    inside = {f"htc_tf.{name}" if name.startswith("pipelines") else name for name in names}
    assert set(setup["options"]["packages"].split()) == inside
    assert setup["options"]["package_dir"].split() == ["htc_tf.pipelines", "=", "pipelines"]


def test_the_preparation_works_under_both_of_its_names():
    """No import in it names the package, so no module is loaded twice."""
    code = "import sys, {0}.to_coco, {0}.plan, {0}.importers.yolo; print(*(m for m in sys.modules if 'pipelines' in m))"
    loaded = {}
    for name in ("pipelines", "htc_tf.pipelines"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name)], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        if name == "htc_tf.pipelines" and "No module named 'htc_tf.pipelines'" in done.stderr:
            pytest.skip("htc_tf is not installed")
        assert done.returncode == 0, done.stderr
        loaded[name] = sorted(done.stdout.split())
    assert all(module.startswith("htc_tf.pipelines") for module in loaded["htc_tf.pipelines"])
    assert [f"htc_tf.{module}" for module in loaded["pipelines"]] == loaded["htc_tf.pipelines"]


def test_a_command_shows_the_name_that_it_was_called_by():
    usage = run("to_coco", "--help").stdout
    assert usage.startswith("usage: htc-tf to_coco ")
    assert command_line.Parser(prog="python -m htc_tf.train").prog == "python -m htc_tf.train"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "error: COMMAND: invalid choice: 'trian' (choose from "),
        (["export", "--output", "x"], "error: the following arguments are required: --checkpoint; "),
        (["convert", "--weights", "nothing.pth", "--output", "x"], "error: "),
    ],
)
def test_mistakes_are_one_line_with_status_2(words, message):
    done = run(*words)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(message)


def test_the_version_is_printed():
    import htc_tf

    assert run("--version").stdout == f"htc-tf {htc_tf.__version__}\n"


def test_a_command_writes_what_python_m_writes(tmp_path):
    for name, words in (("script", ("-m", "htc_tf", "shapes")), ("module", ("-m", "pipelines.shapes"))):
        flags = ["--output", tmp_path / name, "--train", "1", "--val", "1", "--workers", "2", "--seed", "5"]
        done = subprocess.run([sys.executable, *words, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("script", "module"))
    assert first == second and first


def complete(line):
    """Returns the completions of a shell's line, as argcomplete's function of a shell asks for them."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m htc_tf 8>&1 9>/dev/null 1>/dev/null 2>/dev/null"],
        cwd=ROOT,
        env={
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_SHELL": "bash",
            "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "COMP_TYPE": "9",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    return {word.strip() for word in done.stdout.split("\n")} - {""}


def test_a_shell_completes_commands_flags_and_choices():
    pytest.importorskip("argcomplete")
    assert complete("htc-tf ex") == {"explain", "export"}
    assert complete("htc-tf export --ma") == {"--masks", "--max_pixels"}
    assert complete("htc-tf export --precision ") == {"float32", "bfloat16"}
    assert complete("htc-tf coco_to_tfrecord --stuff_") == {"--stuff_labels"}
