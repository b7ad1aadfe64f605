"""--profile: the steps it names, over a resumed training, and after a failure."""

import pytest

from htc_tf import train
from htc_tf.errors import UserError
from htc_tf.run import Run
from tests.training import toy
from tests.training.runs import spoiled, start_toy


@pytest.mark.parametrize("text", ["", "3", "0:2", "3:2", "a:b", "1:²"])
def test_steps_to_profile_that_are_none(text):
    with pytest.raises(UserError, match=rf"--profile {text}: give the first and the last step"):
        train.read_profile(text)


def test_a_profile_continues_in_a_resumed_training(tiny_data, tmp_path, eagerly, capsys):
    """The first process ends between the first and the last step to profile, the second begins there."""
    run = Run(tmp_path)

    def train_profiled(*params):
        """Returns the lines about the profile, and the number of files that the call has written."""
        before = len(list(run.folder.rglob("*.xplane.pb")))
        start_toy(run, tiny_data.records, *params, profile=(2, 3))
        said = [line for line in "".join(capsys.readouterr()).splitlines() if line.startswith("profile of")]
        return said, len(list(run.folder.rglob("*.xplane.pb"))) - before

    folder = run.folder / "plugins" / "profile"
    assert train_profiled("STEPS=2") == ([f"profile of step 2: {folder}"], 1)
    assert train_profiled("STEPS=4") == ([f"profile of step 3: {folder}"], 1)


def test_a_failing_training_leaves_its_profile(tiny_data, tmp_path, eagerly, monkeypatch, capsys):
    monkeypatch.setattr(toy, "objective", spoiled(toy.objective, "few", at=2))
    with pytest.raises(FloatingPointError):
        start_toy(Run(tmp_path), tiny_data.records, profile=(1, 4))
    assert f"profile of steps 1 to 2: {tmp_path}" in capsys.readouterr().out
    assert list(tmp_path.rglob("*.xplane.pb"))
