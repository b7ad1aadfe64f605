"""A run of a stranger: its config.gin may name parts of htc_tf, and runs no code without the user's consent."""

import sys
import types

import gin
import pytest

import htc_tf
from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.run import Run

TINY = "tests/tiny.gin"
CATEGORIES = [{"id": number, "name": f"class {number}"} for number in range(1, 9)]
DYNAMIC = "from __gin__ import dynamic_registration\n"

HOSTILE = {
    "import": "import evil\n",
    "after a comment": "# a\n\n    import evil\n",
    "alias": "import evil as math\n",
    "from": "from evil import run\n",
    "continued": "import \\\n    evil\n",
    "a package": "import evil.inner\n",
    "dynamic registration": DYNAMIC + "import evil\nExperiment.clip_norm = @evil.run()\n",
    "dynamic registration of what htc_tf has": DYNAMIC + "import htc_tf.config\n",
    "a part of htc_tf": "import htc_tf.nothing_yet\n",
    "include": "include 'PATH/evil.gin'\n",
    "include through a folder": "include 'PATH/../PATH/evil.gin'\n",
    "reference": "Experiment.clip_norm = @evil_part()\n",
    "reference in a list": "TestTimeAugmentation.scales = [1.0, (@evil_part(),)]\n",
    "reference as a key": "Experiment.clip_norm = {@evil_part(): 1}\n",
    "scoped reference": "Experiment.clip_norm = @a/b/evil_part()\n",
    "reference by a macro": "MINE = @evil_part()\nExperiment.clip_norm = %MINE\n",
    "singleton": "one/gin.singleton.constructor = @evil_part\nExperiment.clip_norm = @one/gin.singleton()\n",
    "binding": "evil_part.value = 1\n",
    "block": "evil_part:\n    value = 1\n",
    "carriage return": "STEPS = 3\rimport evil\r",
}


@pytest.fixture(scope="module")
def evil_part():
    """A function that the program around htc_tf has registered, in a module of its own."""
    called = []

    def evil_part(value=0):
        called.append(value)

    evil_part.__module__ = "somewhere.else"
    gin.register(evil_part, module="somewhere")
    return called


@pytest.fixture(scope="module")
def resolved():
    """The text of a valid configuration."""
    return config.load([TINY], [])[1]


@pytest.fixture
def hostile_run(tmp_path, monkeypatch, evil_part, resolved):
    """Returns hostile_run(lines): a Run with these lines before a valid configuration; evil.py leaves a file behind."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    (tmp_path / "evil.gin").write_text("import evil\n")

    def make(lines):
        run = Run(tmp_path / "run")
        run.create(lines.replace("PATH", str(tmp_path)) + resolved, CATEGORIES)
        return run

    return make


@pytest.mark.parametrize("lines", HOSTILE.values(), ids=HOSTILE)
def test_a_run_runs_no_code(hostile_run, evil_part, resolved, tmp_path, lines):
    run = hostile_run(lines)
    for place in ("before", "after"):
        if place == "after":
            run.create(resolved + lines.replace("PATH", str(tmp_path)), CATEGORIES)
        with pytest.raises(UserError) as refused:
            htc_tf.load(run.folder)
        message = str(refused.value)
        assert str(run.config) in message and "\n" not in message and len(message) < 500
        assert not (tmp_path / "ran").exists() and "evil" not in sys.modules and not evil_part
    if lines not in (HOSTILE["carriage return"],):
        assert "--trust_config" in message and "trust_config=True" in message


ENDLESS = {
    "macros": "".join(f"A{i} = (%A{i + 1}, %A{i + 1})\n" for i in range(40))
    + "A40 = 1\nTestTimeAugmentation.scales = %A0\n",
    "macros by their parameter": "".join(f"A{i}/macro.value = (%A{i + 1}, %A{i + 1})\n" for i in range(40)),
    "parts": "HTC.stages = [@FPN(), @FPN()]\nFPN.norm = [@RPN()" + ", @RPN()" * 9999 + "]\n",
    "a part in itself": "HTC.neck = @a/HTC()\na/HTC.neck = @a/HTC()\n",
    "a macro in itself": "A = %B\nB = [%A, %A]\n",
}


@pytest.mark.parametrize("lines", ENDLESS.values(), ids=ENDLESS)
def test_a_configuration_without_end_is_refused(tmp_path, resolved, lines):
    run = Run(tmp_path)
    run.create(resolved + lines, CATEGORIES)
    with pytest.raises(UserError, match=rf"{run.config} (builds [\d,]+ parts, more than 10,000|has a part or a macro)"):
        config.load([], [], run)


def test_saved_configurations_load_again(tmp_path):
    run = Run(tmp_path)
    overrides = [f"gin/options/{name}.gin" for name in ("swin_t", "focal", "copy_paste", "test_time_augmentation")]
    run.create(
        config.load(["gin/htc_x101_64x4d_fpn_dconv_c3_c5_ms_400_1400_20e_coco.gin", *overrides], [])[1], CATEGORIES
    )
    assert config.load([], [], run)[0].num_classes == 80
    run.create(
        config.load([TINY], ["FPN = @FPN()", "HTC.neck = %FPN"])[1], CATEGORIES
    )  # a macro with the name of a class
    assert config.load([], [], run)[0].num_classes == 8


def test_nonsense_is_one_line(tmp_path):
    run = Run(tmp_path)
    for text in ("X = " + "[" * 5000, "X = (", "X = 'a", "=", "import", "X = \0", "X = 1e5 1", "@", "    x\n  y"):
        run.create(text, CATEGORIES)
        with pytest.raises(UserError) as refused:
            config.load([], [], run)
        assert len(str(refused.value)) < 400, text[:9]


def test_a_run_with_a_class_of_the_users_needs_consent(tmp_path, monkeypatch):
    (tmp_path / "my_part.py").write_text(
        "import gin\nfrom htc_tf.models.fpn import FPN\n\n\n@gin.register\nclass Neck(FPN):\n    pass\n"
    )
    override = tmp_path / "my_part.gin"
    override.write_text("import my_part\nHTC.neck = @Neck()\nNeck.channels = 16\n")
    monkeypatch.syspath_prepend(tmp_path)
    resolved = config.load([TINY, str(override)], [])[1]
    run = Run(tmp_path / "run")
    run.create(resolved, CATEGORIES)
    with pytest.raises(UserError, match=r"config\.gin has the line 'import my_part'.*--trust_config.*--gin_file"):
        config.load([], [], run)
    run.create("import htc_tf.models.fpn\n" + config.load([TINY], [])[1], CATEGORIES)
    assert config.load([], [], run)[0].num_classes == 8
    run.create(resolved, CATEGORIES)
    for files, params, trust in (([], [], True), ([str(override)], [], False), ([], ["import my_part"], False)):
        experiment, again = config.load(files, params, run, trust)
        assert type(experiment.build_model().neck).__name__ == "Neck" and "import my_part" in again


def test_a_named_module_grants_no_other(tmp_path, monkeypatch):
    """Consent to one module is no consent to what it imports."""
    (tmp_path / "my_tools.py").write_text("import subprocess\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = Run(tmp_path / "run")
    for lines in ("import subprocess\n", DYNAMIC + "import my_tools\nX = @my_tools.subprocess.run()\n"):
        run.create(lines, CATEGORIES)
        with pytest.raises(UserError, match="which can run code"):
            config.load([], ["import my_tools"], run)


def test_every_command_that_reads_a_run_has_the_flag(monkeypatch, capsys):
    import importlib

    for name in ("eval", "predict", "export", "explain", "serve_demo"):
        module = importlib.import_module(f"htc_tf.{name}")
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit):
            module.parse()
        assert "--trust_config" in capsys.readouterr().out
    assert isinstance(htc_tf.load, types.FunctionType) and "load" in dir(htc_tf)
