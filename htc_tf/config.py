"""Configuration with gin: the shared command-line flags, parsing, and the Experiment that it builds.

`add_flags` needs no TensorFlow, so `--help` is fast; `load` imports the configurables and builds the Experiment. Every
mistake becomes a UserError of one line before any work on a device.
"""

import functools
import importlib
import logging
import os
import sys
from pathlib import Path

from htc_tf.errors import UserError
from htc_tf.gin_aliases import accept_former_names
from htc_tf.gin_bindings import check_effect, configurable_of, drop_bindings, superseded
from htc_tf.gin_errors import reading, shorten
from htc_tf.gin_macros import record_macros
from htc_tf.ranges import FLAG, TEXT, check_range, choice, either, number, optional, whole
from htc_tf.record_settings import BATCH_SIZE, EPOCH, NAMES, decide, describe
from htc_tf.trust import check_trust, imported_modules

# Folders that hold gin/: a checkout of the repository, or the data of an installed package.
ROOTS = (Path(__file__).resolve().parent.parent, Path(sys.prefix) / "share" / "htc_tf")

# The macros that every experiment config defines, and their ranges. A macro reaches several configurables, so it is
# checked under its own name.
MACROS = {
    "NUM_CLASSES": whole(1),
    "NUM_LABELS": whole(1, 255),
    "BATCH_SIZE": whole(1),
    "BASE_LEARNING_RATE": number(above=0, maximum=1000),
    "EPOCHS": optional(number(above=0)),
    "STEPS": optional(whole(0)),
    "WARMUP_STEPS": whole(),
    "IMAGE_MIN_SIDE": whole(1),
    "IMAGE_MAX_SIDE": whole(1),
    "MAX_OBJECTS": whole(1),
    "MASK_SIZE": whole(4),
    "NUM_STAGES": whole(1),
    "MASKS": FLAG,
    "INTERLEAVED": FLAG,
    "MASK_INFO_FLOW": FLAG,
    "SEMANTIC": FLAG,
    "PRECISION": choice("float32", "bfloat16", "float16"),
    "XLA": FLAG,
    "LOG_EVERY": whole(0),
    "CHECKPOINT_EVERY": either(whole(0), choice(EPOCH)),
    "EVALUATE_EVERY": either(whole(0), choice(EPOCH, None)),
    "DETERMINISTIC": FLAG,
    "ACCUMULATE": whole(1),
    "STEPS_PER_LOOP": whole(1),
    "BACKBONE_WEIGHTS": optional(TEXT),
}

# Modules of htc_tf that register the classes and functions that a gin file may name.
CONFIGURABLES = (
    *("experiment", "data.augment", "data.class_balance", "data.copy_paste", "data.input"),
    "training.optim",
    *(f"models.{name}" for name in ("box_head", "fpn", "hrfpn", "htc", "htc_loss", "losses", "mask_head")),
    *(f"models.{name}" for name in ("postprocess", "recursive_fpn", "roi_pooler", "rpn", "scnet", "semantic_head")),
    *(f"models.{name}" for name in ("simple_fpn", "stage", "test_time_augmentation")),
    *(f"models.backbones.{name}" for name in ("composite", "convnext", "hrnet", "keras_cv", "res2net")),
    *(f"models.backbones.{name}" for name in ("resnet", "swin", "vit")),
)

PARAMS = "--gin_param"  # the name of its bindings in messages
EXAMPLE = "an experiment config, such as --gin_file gin/htc_r50_fpn_1x_coco.gin"
MODEL = "Experiment.build_model"  # what an experiment config binds, and an override does not


def add_flags(parser, reads_run=False):
    """Adds --gin_file and --gin_param, and --trust_config if the command reads the configuration of a run."""
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE", help="gin file; repeatable, later files win"
    )
    parser.add_argument(
        "--gin_param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="gin binding, applied after all files; repeatable, later ones win (quote strings: "
        "\"PRECISION='bfloat16'\")",
    )
    if reads_run:
        parser.add_argument(
            "--trust_config",
            action="store_true",
            help="let the run's config.gin import modules, which runs their code (default: it may name only the parts "
            "of htc_tf and of modules that a --gin_file or --gin_param imports)",
        )


def load(gin_files, gin_params, run=None, trust_config=False, train_records=None, val_records=None):
    """Parses the configuration and builds the Experiment.

    With training records, the settings that they decide are bound before, see `record_settings`, and printed in a line.

    Args:
        gin_files: [path], relative to the current folder, the repository's root or the installed package's data.
        gin_params: ["NAME=VALUE"] bindings, applied after the files.
        run: A Run whose resolved configuration comes before `gin_files`, or None.
        trust_config: If True, the run's configuration may import modules, which runs their code.
        train_records: Folder of the training records, or None; without them, the length of a training in EPOCHS
            remains unknown.
        val_records: Folder of the records to evaluate on, or None.
    Returns:
        (Experiment, resolved configuration as text)
    Raises:
        UserError: A file is missing, a name is unknown, a value is out of range, nothing used a binding, or
            others hide it, one file binds both EPOCHS and STEPS, the records are incomplete, or the run imports a
            module that the user has not named.
    """
    gin = import_gin()
    if run is None and not gin_files:
        raise UserError(f"no configuration: give {EXAMPLE}")
    paths = [find(name) for name in gin_files]
    gin.clear_config()
    with accept_former_names(gin) as former, record_macros(gin) as macros:
        if run is not None:
            read_run(gin, run, paths, gin_params, trust_config, macros)
        in_run, own_names, sources = len(former.met), set(), []
        for path in paths:
            parse_file(gin, path, macros)
            # Later files and flags may replace what a file uses, but not excuse what it misspells.
            referred, own = macros.find_referred(), macros.names[str(path)]
            own_names |= {name for name in own if configurable_of(name) not in referred}
            sources.append((own, set().union(*macros.names.values())))
        macros.text_name = PARAMS
        with reading(PARAMS):
            gin.parse_config(gin_params)
        own_former = former.met[in_run:]
        with reading("gin configuration"):
            if not macros.read([MODEL]):
                raise UserError(f"{paths[0]} is no experiment config: begin with {EXAMPLE}")
            check_macros(macros)
            macros.settle_length()
        decided = apply_records(macros, train_records, val_records)
        with reading("gin configuration"):
            gin.finalize()
        experiment = build_experiment()
        own_names |= macros.names[PARAMS]
        sources.append((macros.names[PARAMS], set().union(*macros.names.values())))
        resolved, operative = gin.config_str(), gin.operative_config_str()
        check_effect(resolved, operative, sources)
        resolved = drop_bindings(resolved, superseded(resolved, operative, own_names, macros.replaced))
    if decided:
        print(decided, flush=True)
    # Nobody edits a run's config.gin, so only names in the user's own files and flags are worth a note.
    if own_former:
        print(f"note: renamed in gin: {former.describe(own_former)}", file=sys.stderr)
    return experiment, resolved


def read_run(gin, run, paths, gin_params, trust_config, macros):
    """Parses a run's config.gin, after checking that it runs no code the user has not allowed."""
    with reading("gin configuration"):
        modules = None if trust_config else imported_modules(gin, paths, gin_params)
    text = run.read_config()
    with reading(run.config):
        if modules is not None:
            check_trust(text, run, modules)
        macros.clear()  # the two checks have parsed as well
        macros.text_name = run.config
        gin.parse_config(text)


def parse_file(gin, path, macros):
    """Parses a gin file, unless it is an experiment config that replaces macros of an override before it."""
    sources = {} if macros.read([MODEL]) else {name: source for _, source, name, _ in macros.bindings}
    count = len(macros.bindings)
    with reading(path):
        gin.parse_config_file(str(path))
    for *_, name, _ in macros.bindings[count:]:
        if name in sources:
            raise UserError(f"{path} replaces {name} of {sources[name]}: give overrides after the experiment config")


def apply_records(macros, train_records, val_records):
    """Binds the settings that the training records decide, if there are any.

    Returns:
        A line of these settings for the user, "" if there are none.
    Raises:
        UserError: The records are incomplete, or nothing says how many classes there are.
    """
    referred = macros.find_referred()
    if train_records is None:
        if "NUM_CLASSES" in referred and not macros.read(["NUM_CLASSES"]):
            raise UserError(
                "NUM_CLASSES is not set, and there are no records to take it from: add --gin_param NUM_CLASSES=N"
            )
        return ""
    from htc_tf.data.datasets import load_info

    info = load_info(train_records)
    with reading("gin configuration"):
        bound = macros.read(name for name in NAMES if "." in name or name in referred)
    check_range(BATCH_SIZE, bound.get(BATCH_SIZE), whole(1))
    if "NUM_CLASSES" not in referred:
        bound["NUM_CLASSES"] = info.num_classes
    values, remarks = decide(bound, info, bool(val_records))
    check_range(f"EPOCHS = {bound.get('EPOCHS')!r}, so STEPS", values.get("STEPS"), MACROS["STEPS"])
    macros.bind(values)
    return describe(values, remarks, train_records)


def build_experiment():
    from htc_tf.experiment import Experiment

    try:
        experiment = Experiment()
        experiment.set_threads()
        experiment.build_model()
    except UserError as error:
        raise UserError(shorten(error)) from error
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"gin configuration: {shorten(error)}") from error
    return experiment


def find(name):
    """Returns the Path of a gin file in the current folder, the repository or the installed package's data."""
    for folder in (Path(), *ROOTS):
        if (folder / name).is_file():
            return folder / name
    reason = "is a folder" if Path(name).is_dir() else "is missing, both here and among the files of htc_tf"
    raise UserError(f"gin file {name} {reason}")


@functools.cache
def import_gin():
    """Returns the module gin, with all configurables registered and the search path of gin files set."""
    # TensorFlow reads both at import. Its allocator keeps large buffers instead of returning them to the system after
    # each step, which costs a third of the time on a CPU; notes about TensorFlow's build are hidden.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import gin

    for name in CONFIGURABLES:
        importlib.import_module(f"htc_tf.{name}")

    for root in ROOTS:
        gin.add_config_file_search_path(str(root))
    # gin logs an error for each folder of the search path without the file, before it tries the next.
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("Path not found: "))
    return gin


def check_macros(macros):
    """Checks the macros, since each configurable that uses one would name only its own parameter in an error."""
    for name, value in macros.read(MACROS).items():
        check_range(name, value, MACROS[name])
