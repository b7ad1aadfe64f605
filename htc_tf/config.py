"""Gin, the only configuration: the commands' shared flags, parsing, the check for bindings that nothing used.

Flags come first, without TensorFlow, so that --help is quick; `load` then imports the parts and builds the
Experiment. Every mistake becomes a UserError of one line, before any device work.
"""

import functools
import logging
import os
import re
import sys
from pathlib import Path

from htc_tf.errors import UserError

ROOTS = (Path(__file__).resolve().parent.parent, Path(sys.prefix) / "share" / "htc_tf")

# The macros that every run file has: type, and the least value of a number.
KNOBS = {
    "NUM_CLASSES": (int, 1),
    "BATCH_SIZE": (int, 1),
    "BASE_LEARNING_RATE": (float, 0),
    "STEPS": (int, 0),
    "IMAGE_MIN_SIDE": (int, 1),
    "IMAGE_MAX_SIDE": (int, 1),
    "MAX_OBJECTS": (int, 1),
    "PRECISION": (str, None),
    "XLA": (bool, None),
    "LOG_EVERY": (int, 0),
    "CHECKPOINT_EVERY": (int, 0),
    "EVALUATE_EVERY": (int, 0),
    "DETERMINISTIC": (bool, None),
    "ACCUMULATE": (int, 1),
    "STEPS_PER_LOOP": (int, 1),
}
KINDS = {int: "a whole number", float: "a number", str: "a string in quotes", bool: "True or False"}


def add_flags(parser):
    """--gin_file and --gin_param, both repeatable; the later wins."""
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE", help="a gin file; repeatable, the later wins"
    )
    parser.add_argument(
        "--gin_param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a gin binding, after all files; repeatable, the later wins (quote strings: \"PRECISION='bfloat16'\")",
    )


def load(gin_files, gin_params, run=None):
    """Parses the configuration and builds the Experiment.

    Args:
        gin_files: paths, from the current folder, from the repository's root or the installed package's.
        gin_params: "NAME=VALUE" bindings.
        run: a Run, whose resolved configuration comes before `gin_files`; or None.
    Returns:
        (Experiment, the resolved configuration as text)
    Raises:
        UserError: a missing file, an unknown name, a misspelt parameter, a binding that nothing used.
    """
    gin = import_gin()
    from htc_tf.engine.experiment import Experiment

    if run is None and not gin_files:
        raise UserError("no configuration: give --gin_file, for example --gin_file gin/htc_r50_fpn_1x_coco.gin")
    paths = [find(name) for name in gin_files]
    gin.clear_config()
    try:
        if run is not None:
            gin.parse_config(run.read_config())
        gin.parse_config_files_and_bindings([str(path) for path in paths], gin_params, finalize_config=True)
    except (ValueError, SyntaxError, OSError, TypeError, AttributeError, ImportError) as error:
        raise UserError(f"gin configuration: {shorten(error)}") from error
    check_knobs(gin)
    try:
        experiment = Experiment()
        experiment.set_threads()
        experiment.build_model()
    except UserError as error:
        raise UserError(shorten(error)) from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"gin configuration: {shorten(error)}") from error
    own_words = bound_names("\n".join([*(path.read_text() for path in paths[-1:]), *gin_params]))
    return experiment, without(gin.config_str(), replaced(gin, own_words))


def find(name):
    """The Path of a gin file: from the current folder, from the repository's root or the installed package's."""
    for folder in (Path(), *ROOTS):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"--gin_file {name}: there is no such file, here or among those of htc_tf")


@functools.cache
def import_gin():
    """gin, told where to look for files, and every building block that a gin file may name."""
    # Read when TensorFlow starts: keep big buffers rather than give them back to the system after every step, which
    # costs a third of the time on a CPU; and no notes about the build.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import gin

    import htc_tf.data.augment
    import htc_tf.data.input
    import htc_tf.engine.experiment
    import htc_tf.engine.training.optim
    import htc_tf.models.box_head
    import htc_tf.models.criteria
    import htc_tf.models.fpn
    import htc_tf.models.htc
    import htc_tf.models.keras_cv_backbone
    import htc_tf.models.mask_head
    import htc_tf.models.multi_view
    import htc_tf.models.objective
    import htc_tf.models.postprocess
    import htc_tf.models.resnet
    import htc_tf.models.roi_features
    import htc_tf.models.rpn
    import htc_tf.models.semantic_head
    import htc_tf.models.swin  # noqa: F401

    for root in ROOTS:
        gin.add_config_file_search_path(str(root))
    # gin logs an error for each place where a file is not, before it looks in the next.
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("Path not found: "))
    return gin


def shorten(error):
    """An error of gin's in a line that says where, without the class and the whole configuration that gin adds."""
    message, *configurables = re.split(r"\s+In call to configurable '([\w.]+)' \(<class [^\n]*", str(error))[:2]
    message = re.split(r" in config string:|\. Searched config paths|\n\s*In file", message)[0]
    if isinstance(error, SyntaxError):
        return f"{message}: {(error.text or '').strip()}"
    return message if isinstance(error, UserError) else ": ".join([*configurables, message])


def check_knobs(gin):
    """A knob reaches many parts, each of which would complain in its own words about a value of the wrong type."""
    for name, (kind, least) in KNOBS.items():
        try:
            value = gin.query_parameter(f"{name}/macro.value")
        except ValueError:
            continue  # not bound
        if isinstance(value, gin.config.ConfigurableReference):
            continue  # one macro that stands for another
        fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == isinstance(value, bool)
        if not fits or (least is not None and not value >= least):
            limit = "" if least is None else f", at least {least}"
            raise UserError(f"{name} = {value!r}: must be {KINDS[kind]}{limit}")


def replaced(gin, own_words):
    """The bindings of parts that an overlay has put others in the place of: ResNet.depth, once the backbone is a Swin.

    Args:
        own_words: names that are bound where no later file could replace them: in the last file, includes aside, and
            on the command line.
    Raises:
        UserError: any other binding that has not reached something that was built.
    """
    resolved = gin.config_str()
    named = set(re.findall(r"@(?:\w+/)*([\w.]+)", resolved))
    unused = bound_names(resolved) - used_names(gin)
    left = {name for name in unused - own_words if "." in name and owner(name) not in named}
    if unused - left:
        names = ", ".join(sorted(unused - left))
        raise UserError(f"gin configuration: nothing used {names}; misspelt, or a part that this run does not have?")
    return left


def used_names(gin):
    """The bindings that have reached something that was built, or that will."""
    used = set()
    for name in bound_names(gin.operative_config_str()):
        # What was built in the scope a/b took its bindings from none, a and a/b.
        *scopes, parameter = name.split("/")
        used |= {"/".join([*scopes[:depth], parameter]) for depth in range(len(scopes) + 1)}
    # What is handed over as @name, without parentheses, such as an augmentation, is called only later.
    later = set(re.findall(r"@(?:\w+/)*([\w.]+)(?![\w.]*\()", gin.operative_config_str()))
    return used | {name for name in bound_names(gin.config_str()) if owner(name) in later}


def owner(name):
    """scope/Part.parameter -> Part"""
    return name.split("/")[-1].rpartition(".")[0]


def bound_names(config):
    return {match.group(1) for match in re.finditer(r"^([\w./]+) ?=", config, re.MULTILINE)}


def without(config, names):
    """A configuration's text without some bindings; the lines of a long value are indented."""
    kept = re.sub(
        r"^([\w./]+) =.*\n(?:[ \t]+.*\n)*", lambda m: "" if m.group(1) in names else m.group(), config, flags=re.M
    )
    return re.sub(r"# Parameters for .*\n# =+\n\n?(?=#|\Z)", "", kept)
