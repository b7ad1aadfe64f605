"""The Python interface: `load` restores a trained model, `build` makes a new one from gin files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.named_runs import open_run

if TYPE_CHECKING:
    from htc_tf.inference.predictor import Predictor
    from htc_tf.models.htc import HTC
    from htc_tf.models.htc_loss import HTCLoss


def load(
    source: str | os.PathLike,
    gin_file: str | os.PathLike | Sequence[str | os.PathLike] = (),
    gin_param: str | Sequence[str] = (),
    trust_config: bool = False,
) -> Predictor:
    """Loads a trained model that detects objects in images.

        model = htc_tf.load("RUN")
        detections = model("photo.jpg")
        detections.draw("out.jpg")

    The caller's random numbers, Keras policy and determinism stay as they are, whatever the run was trained with.

    Args:
        source: Path of a training run (the --workdir of `htc_tf.train`, or the --output of `htc_tf.convert`), or of an
            exported model (the --output of `htc_tf.export`), which needs no gin; or the name of public weights, such as
            "htc_r50_fpn_1x_coco", which are downloaded and converted at their first use (docs/weights.md).
        gin_file: Path or paths of gin files to apply after the run's configuration; for a run only.
        gin_param: Gin binding or bindings to apply after `gin_file`, such as "SEMANTIC=False"; for a run only.
        trust_config: If True, the run's config.gin may import modules, which runs their code. If False, it may name
            only the parts of htc_tf and of modules that `gin_file` or `gin_param` imports.
    Returns:
        An `inference.predictor.Predictor`. Called with an image or a list of images, it returns an
        `inference.prediction.Prediction` for each.
    Raises:
        UserError: There is no model at `source`, or it does not fit its configuration.
    """
    run = open_run(source)
    if run.config.exists() or not is_export(run.folder):
        categories = run.read_categories()
        experiment, _ = config.load(as_list(gin_file), as_list(gin_param), run, trust_config)
        from htc_tf.caller_state import preserve_caller_state
        from htc_tf.inference.detector import restore
        from htc_tf.inference.predictor import Predictor

        experiment.deterministic = False  # is a setting of the whole process, for training
        with preserve_caller_state():
            return Predictor(restore(experiment, run), categories)
    if gin_file or gin_param or trust_config:
        raise UserError(
            f"{source} is an exported model, whose configuration is fixed: give no gin_file, gin_param or trust_config"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it when it starts; 2 leaves warnings out
    from htc_tf.inference.exported import ExportedDetector
    from htc_tf.inference.predictor import Predictor

    detector = ExportedDetector(source)
    return Predictor(detector, detector.categories)


def as_list(values: Any) -> list[Any]:
    """Returns a list of one string or path, or of those in a sequence."""
    return [values] if isinstance(values, (str, os.PathLike)) else list(values)


def is_export(folder: Path) -> bool:
    """Returns True if a folder holds an exported model, or versions of one."""
    return any(path.is_file() for path in (folder / "saved_model.pb", *folder.glob("[0-9]*/saved_model.pb")))


def build(
    *gin_files: str | os.PathLike, weights: str | os.PathLike | None = None, seed: int = 0, **macros: Any
) -> tuple[HTC, HTCLoss]:
    """Builds the network and its loss from gin files, with all variables created.

        model, loss = htc_tf.build("gin/htc_r50_fpn_1x_coco.gin", NUM_CLASSES=20)
        outputs = model(images, sizes)
        detections = model.detect(outputs)

    The caller's random numbers, Keras policy and determinism stay as they are, whatever the configuration says: a
    training that shall be deterministic calls `tf.config.experimental.enable_op_determinism`.

    Args:
        *gin_files: Paths of gin files; later files win.
        weights: Path of a training run whose newest weights the model gets, or the name of public weights, as in
            `load`; None to initialize it at random.
        seed: Seed of the random initial values, which depend on nothing else.
        **macros: Values of gin macros, such as `NUM_CLASSES=20` or `PRECISION="bfloat16"`.
    Returns:
        (model, loss): a `models.htc.HTC` and the `models.htc_loss.HTCLoss` that it is trained with.
    Raises:
        UserError: A file or macro is unknown, a value is out of range, or the weights do not fit.
    """
    if weights is not None:
        run = open_run(weights)
        run.check_exists()
    experiment, _ = config.load(list(gin_files), [f"{name}={value!r}" for name, value in macros.items()])
    from htc_tf.caller_state import preserve_caller_state

    experiment.deterministic = False
    with preserve_caller_state():
        if weights is not None:
            from htc_tf.inference.detector import restore

            return restore(experiment, run, seed).model, experiment.objective
        experiment.prepare_runtime(seed)
        model = experiment.build_model()
        model.build_variables()
    return model, experiment.objective
