"""Macros and their sources: of EPOCHS and STEPS the later wins, and one source may not bind both."""

import pytest

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.run import Run

TINY = "tests/tiny.gin"


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.gin").write_text(text)


@pytest.mark.parametrize(
    "text, params, length",
    [
        ("", [], (4500, None)),
        ("EPOCHS = 3", [], (None, 3)),
        ("EPOCHS = 3", ["STEPS=300"], (300, None)),
        ("STEPS = 300", ["EPOCHS=3"], (None, 3)),
        ("STEPS = 300\nSTEPS = 400", [], (400, None)),
        ("EPOCHS = 3\ninclude 'steps.gin'", [], (7, None)),
        ("include 'steps.gin'\nEPOCHS = 3", [], (None, 3)),
        ("EPOCHS = %MINE\nMINE = 3", [], (None, 3)),
        ("EPOCHS = 3\nSTEPS = 5\nEPOCHS = None", [], (5, None)),
        ("STEPS = 5", ["EPOCHS=3", "EPOCHS=None"], (None, None)),
    ],
)
def test_the_later_of_epochs_and_steps_wins(tmp_path, monkeypatch, text, params, length):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, steps="STEPS = 7\n", own=f"include 'gin/htc_shapes.gin'\n{text}\n")
    experiment, resolved = config.load(["own.gin"], params)
    assert (experiment.steps, experiment.epochs) == length
    assert f"STEPS = {length[0]}\n" in resolved and experiment.optimizer.schedule.steps == length[0]


@pytest.mark.parametrize(
    "text, params, source",
    [
        ("EPOCHS = 3\nSTEPS = 300", [], "own.gin"),
        ("EPOCHS = 3\ninclude 'steps.gin'\nSTEPS = 300", [], "own.gin"),
        ("include 'both.gin'", ["STEPS=5"], "both.gin"),
        ("", ["EPOCHS=3", "STEPS=300"], "--gin_param"),
    ],
)
def test_both_in_one_source_are_refused(tmp_path, monkeypatch, text, params, source):
    monkeypatch.chdir(tmp_path)
    both = "STEPS = 7\nEPOCHS = 2\n"
    write(tmp_path, steps="STEPS = 7\n", both=both, own=f"include 'gin/htc_shapes.gin'\n{text}\n")
    with pytest.raises(UserError) as refused:
        config.load(["own.gin"], params)
    assert str(refused.value) == f"{source} binds both EPOCHS and STEPS: keep one"


def test_both_in_a_run_are_refused_by_its_name(tmp_path):
    run = Run(tmp_path)
    run.create(config.load([TINY], [])[1].replace("EPOCHS = None", "EPOCHS = 2"), [])
    with pytest.raises(UserError) as refused:
        config.load([], ["LOG_EVERY=3"], run)
    assert str(refused.value) == f"{run.config} binds both EPOCHS and STEPS: keep one"


def test_configurations_that_do_not_know_epochs_take_them(tiny_data, tmp_path):
    own = tmp_path / "own.gin"
    resolved = config.load([TINY], [])[1]
    own.write_text(resolved.replace("EPOCHS = None\n", "").replace("Experiment.epochs = %EPOCHS\n", ""))
    assert "EPOCHS" not in own.read_text() and "EPOCHS" not in config.load([own], [])[1]
    assert config.load([own], ["EPOCHS=3"], train_records=tiny_data.records)[0].steps == 9


@pytest.mark.parametrize("name", ["EPOCHS", "STEPS"])
def test_a_length_of_the_experiment_alone_is_refused(name):
    """The schedule follows the macro, and would end elsewhere."""
    with pytest.raises(UserError, match=rf"^Experiment\.{name.lower()} = 7, but {name} = .*: bind {name} alone$"):
        config.load(["gin/htc_r50_fpn_1x_coco.gin"], [f"Experiment.{name.lower()}=7"])


@pytest.mark.parametrize("text, params", [("EPOCHS = %MINE", []), ("STEPS = %MINE", ["EPOCHS=3"])])
def test_a_macro_behind_a_replaced_length_is_no_mistake(tiny_data, tmp_path, text, params):
    own = tmp_path / "own.gin"
    own.write_text(f"include 'tests/tiny.gin'\nMINE = 3\n{text}\n")
    experiment, resolved = config.load([own], params, train_records=tiny_data.records)
    assert experiment.steps == 9 and "MINE" not in resolved


def test_the_experiment_config_comes_first(tmp_path):
    override, own, imports = "gin/options/fine_tune.gin", tmp_path / "own.gin", tmp_path / "imports.gin"
    with pytest.raises(UserError, match=rf"{override} is no experiment config: begin with .* --gin_file gin/htc_r50"):
        config.load([override], ["NUM_CLASSES=3"])
    with pytest.raises(UserError, match=rf"tiny\.gin replaces LOG_EVERY of .*{override}: give overrides after"):
        config.load([override, TINY], [])
    # Files that complement each other may come in any order.
    own.write_text("Experiment.keep_checkpoints = 5\n")
    imports.write_text("import htc_tf.experiment\n")
    assert config.load([imports, own, TINY], [])[0].keep_checkpoints == 5
