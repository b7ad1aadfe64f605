"""Keras 2 as `tf.keras`: chosen at `import htc_tf`, and one line where that is impossible."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from htc_tf import keras_version
from htc_tf.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function: install("keras 3", "tf_keras") makes these, empty, the only packages of Keras; TensorFlow is new."""
    for name in ("keras", "tf_keras", "tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(keras_version, "_matching_version", lambda: "2.21.0")
    # Set first, so that what the code sets is undone after the test as well.
    monkeypatch.setenv(keras_version.VARIABLE, "")
    monkeypatch.delenv(keras_version.VARIABLE)

    def install(*packages):
        folders = {"keras 2": "keras/api/_v2/keras", "keras 3": "keras/_tf_keras/keras"}
        for name in packages:
            folder = tmp_path / folders.get(name, "tf_keras/api/_v2/keras")
            folder.mkdir(parents=True)
            for each in (folder, tmp_path / folder.relative_to(tmp_path).parts[0]):
                (each / "__init__.py").touch()
        return tmp_path

    return install


def import_tensorflow(monkeypatch, **keras):
    """Makes a module `tensorflow` whose lazy loader of Keras has these names; any other access fails."""

    class Loader(ModuleType):
        def __getattr__(self, name):
            raise AssertionError(f"tf.keras.{name} was used")

    module = ModuleType("tensorflow")
    module.__path__, module.keras = ["tensorflow"], Loader("keras")
    vars(module.keras).update(keras)
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    return module


def test_keras_2_is_chosen_where_tensorflow_would_take_keras_3(install):
    install("keras 3", "tf_keras")
    keras_version.choose_keras_2()
    assert os.environ[keras_version.VARIABLE] == "1"
    keras_version.check_keras_2()


def test_tensorflow_2_15_keeps_its_keras(install):
    """Even if tf_keras is installed, which other packages bring."""
    install("keras 2", "tf_keras")
    keras_version.choose_keras_2()
    assert keras_version.VARIABLE not in os.environ
    keras_version.check_keras_2()


def test_a_missing_tf_keras_is_one_line(install):
    install("keras 3")
    keras_version.choose_keras_2()
    assert keras_version.VARIABLE not in os.environ
    with pytest.raises(UserError, match=r"pip install tf_keras==2\.21\.0$"):
        keras_version.check_keras_2()


@pytest.mark.parametrize("value", ["0", "", "yes"])
def test_a_variable_that_the_user_has_set_is_kept_and_refused(install, monkeypatch, value):
    install("keras 3", "tf_keras")
    monkeypatch.setenv(keras_version.VARIABLE, value)
    keras_version.choose_keras_2()
    assert os.environ[keras_version.VARIABLE] == value
    with pytest.raises(UserError, match=f"^TF_USE_LEGACY_KERAS={value} .*unset the variable"):
        keras_version.check_keras_2()


@pytest.mark.parametrize("by", ["attribute", "import"])
def test_a_keras_3_already_in_use_is_one_line(install, monkeypatch, by):
    folder = install("keras 3", "tf_keras")
    module = folder / "keras" / "_tf_keras" / "keras" / "__init__.py"
    names = {"attribute": {"_tfll_keras_version": "keras_3"}, "import": {"__file__": str(module)}}[by]
    tensorflow = import_tensorflow(monkeypatch, **names)
    keras_version.choose_keras_2()
    assert keras_version.VARIABLE not in os.environ and tensorflow.__path__ == ["tensorflow"]
    with pytest.raises(UserError, match=r"import htc_tf before the first use of tf\.keras"):
        keras_version.check_keras_2()


def test_a_tensorflow_imported_before_finds_keras_2(install, monkeypatch):
    folder = install("keras 3", "tf_keras")
    tensorflow = import_tensorflow(monkeypatch, _tfll_initialized=False)
    for _ in range(2):
        keras_version.choose_keras_2()
    assert tensorflow.__path__ == [str(folder / "tf_keras" / "api" / "_v2"), "tensorflow"]
    keras_version.check_keras_2()


# Each is a process of its own: TensorFlow decides once.
SCRIPTS = {
    "the package only": "import htc_tf\nfrom htc_tf.models.htc import HTC",
    "tensorflow before": """
import tensorflow as tf
import htc_tf
from tensorflow.keras import layers
from htc_tf.models.htc import HTC
assert issubclass(HTC, layers.Layer) and tf.keras.layers.Layer is layers.Layer""",
    "keras 3 before": "import keras\nkeras.layers.Dense(1)\nfrom htc_tf.models.htc import HTC",
    "tf.keras before": """
import tensorflow as tf
tf.keras.layers.Dense(1)
import htc_tf
from htc_tf.ops import boxes
from htc_tf.errors import UserError
build = "htc_tf.build('gin/htc_r50_fpn_1x_coco.gin')"
for use in (build, "import htc_tf.models.htc", "import htc_tf.training.keras_model"):
    try:
        exec(use)
    except UserError as error:
        assert "already in use as Keras 3" in str(error)
    else:
        raise AssertionError(use)""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_that_uses_keras_before_htc_tf(name):
    if not keras_version._has_keras_3():
        pytest.skip("TensorFlow 2.15 has Keras 2 in any case")
    environment = {name: value for name, value in os.environ.items() if name != keras_version.VARIABLE}
    command = [sys.executable, "-c", SCRIPTS[name]]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
