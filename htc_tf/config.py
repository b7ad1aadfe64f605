"""Gin, the only configuration: the commands' shared flags, parsing, the check for bindings that nothing used.

Flags come first, without TensorFlow, so that --help is quick; `load` then imports the parts and builds the
Experiment. Every mistake becomes a UserError of one line, before any device work.
"""

import contextlib
import functools
import importlib
import logging
import os
import re
import sys
import tokenize
from pathlib import Path

from htc_tf.errors import UserError
from htc_tf.ranges import FLAG, check_range, choice, number, whole
from htc_tf.trust import check_trust, imported_modules

ROOTS = (Path(__file__).resolve().parent.parent, Path(sys.prefix) / "share" / "htc_tf")

# The macros that every run file has, and their ranges. A macro reaches many parts: it is checked under its own name.
KNOBS = {
    "NUM_CLASSES": whole(1),
    "NUM_LABELS": whole(1, 255),
    "BATCH_SIZE": whole(1),
    "BASE_LEARNING_RATE": number(above=0, most=1000),
    "STEPS": whole(0),
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
    "CHECKPOINT_EVERY": whole(0),
    "EVALUATE_EVERY": whole(0),
    "DETERMINISTIC": FLAG,
    "ACCUMULATE": whole(1),
    "STEPS_PER_LOOP": whole(1),
}

# The modules whose classes and functions a gin file may name.
CONFIGURABLES = (
    *("experiment", "data.augment", "data.class_balance", "data.copy_paste", "data.input"),
    "training.optim",
    *(f"models.{name}" for name in ("box_head", "fpn", "htc", "htc_loss", "losses", "mask_head", "postprocess")),
    *(f"models.{name}" for name in ("roi_pooler", "rpn", "semantic_head", "test_time_augmentation")),
    *(f"models.backbones.{name}" for name in ("keras_cv", "resnet", "swin")),
)

# Longest text of a configuration in a message; most names in one.
LONGEST_TEXT = 200
MOST_NAMES = 8

# What gin raises on a configuration that it cannot read or resolve.
GIN_ERRORS = (
    *(ValueError, SyntaxError, OSError, TypeError, AttributeError, ImportError, NameError),
    *(tokenize.TokenError, RecursionError, MemoryError),
)


def add_flags(parser, reads_run=False):
    """--gin_file and --gin_param, both repeatable; the later wins. With `reads_run` also --trust_config."""
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
    if reads_run:
        parser.add_argument(
            "--trust_config",
            action="store_true",
            help="let the run's own config.gin import modules, which runs their code (default: it may name htc_tf's "
            "parts only, and modules that a --gin_file of yours imports)",
        )


def load(gin_files, gin_params, run=None, trust_config=False):
    """Parses the configuration and builds the Experiment.

    Args:
        gin_files: paths, from the current folder, from the repository's root or the installed package's.
        gin_params: "NAME=VALUE" bindings.
        run: a Run, whose resolved configuration comes before `gin_files`; or None.
        trust_config: whether the run's configuration may import modules, which runs their code.
    Returns:
        (Experiment, the resolved configuration as text)
    Raises:
        UserError: a missing file, an unknown name, a misspelt parameter, a binding that nothing used, a run that
            imports modules without the user's word.
    """
    gin = import_gin()
    from htc_tf.experiment import Experiment

    if run is None and not gin_files:
        raise UserError("no configuration: give --gin_file, for example --gin_file gin/htc_r50_fpn_1x_coco.gin")
    paths = [find(name) for name in gin_files]
    gin.clear_config()
    if run is not None:
        with reading("gin configuration"):
            modules = None if trust_config else imported_modules(gin, paths, gin_params)
        read_run(gin, run, modules)
    for path in paths:
        with reading(path):
            gin.parse_config_file(str(path))
    with reading("--gin_param"):
        gin.parse_config(gin_params)
    with reading("gin configuration"):
        gin.finalize()
    check_knobs(gin)
    try:
        experiment = Experiment()
        experiment.set_threads()
        experiment.build_model()
    except UserError as error:
        raise UserError(shorten(error)) from error
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"gin configuration: {shorten(error)}") from error
    own_words = bound_names("\n".join([*(path.read_text() for path in paths[-1:]), *gin_params]))
    return experiment, without(gin.config_str(), replaced(gin, own_words))


def read_run(gin, run, modules):
    """Parses a run's config.gin. `modules`: see `check_trust`; None to trust it."""
    text = run.read_config()
    with reading(run.config):
        if modules is not None:
            check_trust(text, run, modules)
        gin.parse_config(text)


def find(name):
    """The Path of a gin file: from the current folder, from the repository's root or the installed package's."""
    for folder in (Path(), *ROOTS):
        if (folder / name).is_file():
            return folder / name
    reason = "is a folder" if Path(name).is_dir() else "does not exist, here or among those of htc_tf"
    raise UserError(f"gin file {name} {reason}")


@functools.cache
def import_gin():
    """gin, told where to look for files, and every building block that a gin file may name."""
    # Read when TensorFlow starts: keep big buffers rather than give them back to the system after every step, which
    # costs a third of the time on a CPU; and no notes about the build.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import gin

    for name in CONFIGURABLES:
        importlib.import_module(f"htc_tf.{name}")

    for root in ROOTS:
        gin.add_config_file_search_path(str(root))
    # gin logs an error for each place where a file is not, before it looks in the next.
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("Path not found: "))
    return gin


@contextlib.contextmanager
def reading(source):
    """Errors of gin's parser become a UserError that begins with the file and the line, where they are known.

    Args:
        source: what is parsed: a file's path, or the name of a flag.
    """
    try:
        yield
    except UserError as error:
        raise UserError(shorten(error)) from error  # without the lines that gin adds to whatever its parser raises
    except GIN_ERRORS as error:
        located = re.search(
            r'\n\s*In file "(.*)", line (\d+)', str(error)
        )  # the innermost of files that include others
        if isinstance(error, SyntaxError):
            located = located or re.search(r"\((?!<)(.*), line (\d+)\)$", str(error))
        where = source
        if located:
            # A syntax error has the file's name without its folder.
            file = source if Path(source).name == located[1] else located[1]
            where = f"{file}, line {located[2]}"
        raise UserError(f"{where}: {shorten(error)}") from error


def shorten(error):
    """An error of gin's in one line, without the class, the place and the whole configuration that gin adds."""
    called = r"\s+In call to configurable '([\w.]+)' \(<(?:class|function) [^\n]*"
    added = r" in config string:|\. Searched config paths|\n\s*In (?:file|bindings) |\n\s*No values supplied"
    message, *configurables = re.split(called, str(error))[:2]
    message = re.split(added, message)[0]
    if isinstance(error, UserError):
        return message
    if isinstance(error, (RecursionError, MemoryError)):
        return "a value is nested too deeply"
    if isinstance(error, tokenize.TokenError):
        return f"a bracket or a quotation mark is not closed ({error.args[0]})"
    if isinstance(error, SyntaxError):
        return f"{explain_syntax(error.msg)}: {(error.text or '').strip()[:LONGEST_TEXT]}"
    return ": ".join([*configurables, message[: 2 * LONGEST_TEXT]])


def explain_syntax(message):
    """A syntax error's message. gin's own for a word without quotation marks holds the address of an object."""
    word = re.search(r"Failed to parse token '(.*)'", message, re.DOTALL)
    if not word:
        return message.rstrip(".")
    return (
        f"{word[1][:LONGEST_TEXT]!r} is no value; a string needs quotation marks of its own, within those of the shell "
        "(--gin_param \"PRECISION='bfloat16'\"), a part needs an @, and a flag is True or False"
    )


def check_knobs(gin):
    """A knob reaches many parts, each of which would complain in its own words about a value of the wrong type."""
    for name, allowed in KNOBS.items():
        try:
            value = gin.query_parameter(f"{name}/macro.value")
        except ValueError:
            continue  # not bound
        if not isinstance(value, gin.config.ConfigurableReference):  # one macro may stand for another
            check_range(name, value, allowed)


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
        names = sorted(unused - left)
        names = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if names[MOST_NAMES:] else "")
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
