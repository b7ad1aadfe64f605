"""Configurations with former gin names: saved runs, files and flags load as if written with the present names."""

import inspect
from pathlib import Path

import gin
import pytest

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.gin_aliases import ALIASES, FormerNames
from htc_tf.run import Run

TINY = "tests/tiny.gin"
REFERENCE = Path(__file__).parent / "reference"
CATEGORIES = [{"id": number, "name": f"class {number}"} for number in range(1, 9)]
config.import_gin()
REGISTERED = {part.wrapped.__name__: part.wrapped for _, part in gin.config._REGISTRY.items()}
# First arguments of functions, which no configuration binds.
POSITIONAL = {"copy_paste": {"row", "partner"}}


def bindings(text):
    """{name: value} of the bindings of a resolved configuration that fit one line."""
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line and line[0] not in "# ")


@pytest.fixture
def former_run(tmp_path):
    """A run whose configuration the first release wrote: tests/tiny.gin and eight overrides."""
    run = Run(tmp_path / "run")
    run.create((REFERENCE / "former_run.gin").read_text(), CATEGORIES)
    return run


def test_every_former_name_is_known():
    """Each class, function and parameter of the first release exists, under its own name or by its alias."""
    former, lost = FormerNames(gin), []
    lines = (REFERENCE / "former_gin_names.txt").read_text().splitlines()[1:]
    for name, *parameters in map(str.split, lines):
        for parameter in set(parameters) - POSITIONAL.get(name, set()):
            present, renamed = former.replace(name, parameter)
            part = REGISTERED.get(present)
            if part is None or renamed not in inspect.signature(part).parameters:
                lost.append(f"{name}.{parameter}")
    assert not lost and set(former.met) == ALIASES.keys()


def test_the_run_of_a_former_release_loads_completely(former_run, capsys):
    experiment, resolved = config.load([], [], former_run)
    former, found = FormerNames(gin), bindings(resolved)
    for name, value in bindings(former_run.read_config()).items():
        if "@" not in value:
            *scopes, name = name.split("/")
            selector, dot, parameter = name.rpartition(".")
            selector, parameter = former.replace(selector, parameter) if dot else (selector, parameter)
            assert found.pop("/".join([*scopes, f"{selector}{dot}{parameter}"])) == value, name
    assert all("@" in value for value in found.values())
    assert found["HTCLoss.box_loss"] == "@GIoULoss()" and found["HTC.test_time"] == "@TestTimeAugmentation()"
    model = experiment.build_model()
    assert model.roi_pooler.canonical_scale == 14.0 and model.stages[2].target_stds == (0.033, 0.033, 0.067, 0.067)
    assert type(experiment.objective.class_loss).__name__ == "FocalLoss"
    assert not capsys.readouterr().err  # nobody edits a run's configuration


def test_the_present_form_of_a_former_run_loads_alike(former_run):
    """What an evaluation or a second training of the run would write is the same as what it reads."""
    resolved = config.load([], [], former_run)[1]
    former_run.create(resolved, CATEGORIES)
    assert config.load([], [], former_run)[1] == resolved


OVERRIDE = """# Objective.box_loss: a comment keeps its Focal
include 'former_base.gin'
LOSS = @a/b/Focal()
Objective.class_loss = %LOSS
a/b/Focal.gamma = 3.0
Objective:
    rpn_beta = 0.5   # Objective
    mask_loss = @models.losses.Boundary()
stage2/Stage.stds = (1.0, 1.0,
    2.0, 2.0)
"""


def test_former_names_in_files_includes_blocks_and_flags(tmp_path, capsys):
    (tmp_path / "former_base.gin").write_text("RoIAlign.finest = 7.0\nSmoothL1.beta = 0.25\n")
    override = tmp_path / "mine.gin"
    override.write_text(OVERRIDE.replace("former_base.gin", str(tmp_path / "former_base.gin")))
    params = ["Objective.box_loss=@SmoothL1()", "TEXT='Objective Stage.stds'", "NUM_CLASSES=%TEXT", "NUM_CLASSES=8"]
    with pytest.raises(UserError, match="nothing used TEXT"):
        config.load([TINY, str(override)], params)
    experiment, resolved = config.load([TINY, str(override)], [params[0], "ResNet.norm='group'"])
    model, loss = experiment.build_model(), experiment.objective
    assert (loss.class_loss.gamma, loss.rpn_beta, loss.box_loss.beta) == (3.0, 0.5, 0.25)
    assert type(loss.mask_loss).__name__ == "BoundaryLoss"
    assert model.roi_pooler.canonical_scale == 7.0 and model.stages[1].target_stds == (1.0, 1.0, 2.0, 2.0)
    assert "a/b/FocalLoss.gamma = 3.0" in resolved and "Objective" not in resolved
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: renamed in gin: ") and line.count("Objective is now HTCLoss") == 1
    assert "RoIPooler.finest is now RoIPooler.canonical_scale" in line


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("Objective.rpn_betta=1", "parameter named 'rpn_betta'. (Objective is now HTCLoss)"),
        ("stage1/Stage.stds=4", "Stage.target_stds = 4: must be"),
        ("stage1/Stage.stds=4", "(Stage.stds is now Stage.target_stds)"),
        ("Focal.gamma=1.0", "nothing used FocalLoss.gamma"),
        ("Objektive.rpn_beta=1", "'Objektive'"),
        ("stds=1", "nothing used stds"),
    ],
)
def test_mistakes_name_what_was_written(param, message):
    with pytest.raises(UserError) as refused:
        config.load([TINY], [param])
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_the_check_of_trust_reads_former_names(former_run, tmp_path):
    text = former_run.read_config()
    for hostile in ("Objective.box_loss = @os.Focal()\nimport os\n", "MultiView.scales = [@evil()]\n"):
        former_run.create(text + hostile, CATEGORIES)
        with pytest.raises(UserError, match=r"config\.gin.*(--trust_config|No configurable matching)"):
            config.load([], [], former_run)


def test_a_name_that_the_user_registers_is_no_alias(tmp_path, monkeypatch):
    module = tmp_path / "their_loss.py"
    module.write_text(
        "import gin\nfrom htc_tf.models.losses import GIoULoss\n\n\n@gin.register\nclass GIoU(GIoULoss):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        experiment, _ = config.load([TINY], ["import their_loss", "Objective.box_loss=@GIoU()", "GIoU.weight=2.0"])
    finally:
        gin.config._REGISTRY.pop("their_loss.GIoU")
    assert type(experiment.objective.box_loss).__module__ == "their_loss"


def test_gin_itself_is_left_as_it_was():
    parser = gin.config.config_parser.ConfigParser
    config.load([TINY], [])
    with pytest.raises(UserError):
        config.load([TINY], ["Objective.nothing=1"])
    assert gin.config.config_parser.ConfigParser is parser and parser.__module__ == "gin.config_parser"
