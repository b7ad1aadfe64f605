"""Imports run in one direction, so that every file can be read after those it imports.

    errors, structures, ops <- models, data <- inference <- evaluation, weights <- training <- config <- commands
                        visualization <- inference <- explanation, serving, web
                        errors, data, visualization <- pipelines

Imports are read from the syntax trees, those inside functions included. Those under `if TYPE_CHECKING` never run.
"""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import to_coco

ROOT = Path(__file__).parent.parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("htc_tf", "pipelines")
    for path in sorted((ROOT / package).rglob("*.py"))
}
ROOMS = {path.parent.name for path in (ROOT / "htc_tf").glob("*/__init__.py")}
SHARED = {"errors", "keras_version", "structures", "ranges", "run", "lock", "progress", "cluster", "moving_averages"}
SHARED |= {"checkpoint_files", "checkpoint", "experiment", "command_line", "trust", "config", "api", "measurement"}
SHARED |= {"addons", "tensorflow_notes", "gin_aliases", "gin_bindings", "gin_errors", "gin_macros"}
SHARED |= {"record_settings", "named_runs", "flush", "request_errors", "machine", "tensorflow_probe"}
SHARED |= {"process_memory", "freed_memory"}
SHARED |= {"formats", "caller_state", "path_patterns"}
COMMANDS = sorted(m for m in FILES if m.count(".") == 1 and m.startswith("htc_tf.") and m[7:] not in ROOMS | SHARED)

# A layer is a folder of htc_tf ("room") or a file that the rooms share; "root" is htc_tf/__init__.py, "commands" every
# other file of htc_tf/. Each may import itself and what is named here; the order of the lines is the order of reading.
MAY_IMPORT = {
    "root": {"errors", "keras_version", "tensorflow_notes"},
    "errors": set(),
    "path_patterns": set(),
    "keras_version": {"errors"},
    "tensorflow_notes": set(),
    "structures": {"errors"},
    "ranges": {"errors"},
    "record_settings": set(),
    "flush": set(),
    "process_memory": set(),
    "freed_memory": set(),
    "request_errors": set(),
    "machine": {"process_memory"},
    "tensorflow_probe": {"ops"},
    "formats": {"errors"},
    "run": {"errors", "flush", "formats"},
    "lock": {"errors"},
    "progress": set(),
    "cluster": {"errors"},
    "moving_averages": set(),
    "addons": set(),
    "caller_state": set(),
    "ops": {"errors", "structures"},
    "models": {"errors", "keras_version", "ranges", "addons", "structures", "ops"},
    "data": {"errors", "progress", "formats", "ranges", "structures", "ops"},
    "checkpoint_files": {"errors", "formats", "run"},
    "checkpoint": {"errors", "run", "moving_averages", "checkpoint_files"},
    "experiment": {"errors", "ranges", "data"},
    "visualization": {"errors"},
    "inference": {"errors", "formats", "run", "request_errors", "structures", "progress", "ops", "data", "checkpoint"}
    | {"path_patterns", "visualization"},
    "evaluation": {"errors", "structures", "run", "progress", "cluster", "ops", "data", "visualization", "inference"},
    "weights": {"errors", "run", "request_errors", "progress", "ops", "data", "checkpoint", "inference"},
    "explanation": {"structures", "ops", "visualization", "inference"},
    "serving": {"errors", "formats", "run", "checkpoint_files", "structures", "lock", "ops", "data", "inference"},
    "web": {"errors", "ops", "data", "visualization", "inference"},
}
MAY_IMPORT["training"] = {*MAY_IMPORT} - {"root", "explanation", "serving", "web"}
MAY_IMPORT |= {
    "command_line": {"errors"},
    "trust": {"errors"},
    "gin_aliases": {"errors"},
    "gin_bindings": {"errors"},
    "gin_errors": {"errors"},
    "gin_macros": {"errors"},
    "config": {"errors", "ranges", "run", "trust", "gin_aliases", "gin_bindings", "gin_errors", "gin_macros"}
    | {"record_settings", "experiment"}
    | {"models", "data", "training"},
    "named_runs": {"errors", "caller_state", "run", "config", "weights"},
    "api": {"errors", "caller_state", "config", "named_runs", "checkpoint", "models", "inference"},
    "measurement": {"errors", "process_memory", "freed_memory", "progress", "command_line", "config"},
    "commands": {*MAY_IMPORT, "command_line", "config", "named_runs", "api", "measurement"} - {"root"},
    "pipelines": {"errors", "flush", "formats", "path_patterns", "command_line", "lock", "progress", "data"}
    | {"visualization"},
}
SHARED_WITH_PIPELINES = {
    f"htc_tf.data{name}" for name in ("", ".annotations", ".record", ".schema", ".datasets", ".image_io")
}
SHARED_WITH_PIPELINES |= {"htc_tf.data.shard_index", "htc_tf.data.record_walk"}


def layer(module):
    """The layer of one of our modules: `htc_tf.ops.boxes` -> `ops`."""
    package, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    if package == "pipelines":
        return package
    return part if part in ROOMS | SHARED else "commands" if part else "root"


def imports(module, text, is_package=False):
    """Every module that the source text of `module` imports, by its absolute name; of ours, the very file."""
    found, tree = set(), ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".") + ["_"] * is_package
            base = (
                ".".join(parents[: -node.level] + ([node.module] if node.module else [])) if node.level else node.module
            )
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in FILES} or {base}
    return found


@functools.cache
def all_imports():
    """{module: the names that it imports}, of all of our modules."""
    return {module: imports(module, path.read_text(), path.name == "__init__.py") for module, path in FILES.items()}


def ours(module):
    return module.partition(".")[0] in ("htc_tf", "pipelines")


def importers(*packages):
    """The modules that import one of the outer packages."""
    return {module for module, names in all_imports().items() if any(n.partition(".")[0] in packages for n in names)}


def reach(module):
    """All that is loaded with a module: what it imports, their packages, and so on."""
    loaded, todo = set(), {module}
    while todo:
        name = todo.pop()
        loaded.add(name)
        parents = {name.rpartition(".")[0]} - {""}
        todo |= (all_imports().get(name, set()) | (parents if ours(name) else set())) - loaded
    return loaded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import htc_tf.errors as e", {"htc_tf.errors"}),
        ("from htc_tf import errors, __version__", {"htc_tf.errors"}),
        ("from htc_tf.errors import UserError", {"htc_tf.errors"}),
        ("def f():\n    from ..structures import Batch", {"htc_tf.structures"}),
        ("from .. import structures", {"htc_tf.structures"}),
        ("import gin.tf", {"gin.tf"}),
        ("if TYPE_CHECKING:\n    import gin\nelse:\n    import numpy", {"numpy"}),
    ],
)
def test_reader_of_imports(text, expected):
    assert imports("htc_tf.ops.boxes", text) == expected


def test_imports_run_one_way():
    wrong = [
        f"{module} imports {name}"
        for module, names in all_imports().items()
        for name in names
        if ours(name) and layer(name) not in MAY_IMPORT[layer(module)] | {layer(module), "root"}
    ]
    assert not wrong


def test_the_layers_have_an_order():
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError, which names the cycle
    assert {layer(module) for module in FILES} == {*MAY_IMPORT}


def test_no_import_cycle():
    graph = {module: {name for name in names if ours(name)} - {module} for module, names in all_imports().items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_only_the_record_is_shared_with_pipelines():
    wrong = [
        f"{module} imports {name}"
        for module, names in all_imports().items()
        if layer(module) == "pipelines"
        for name in names
        if ours(name) and layer(name) == "data" and name not in SHARED_WITH_PIPELINES
    ]
    assert not wrong


@pytest.mark.parametrize("module", [m for m in FILES if layer(m) == "pipelines"])
def test_a_beam_worker_loads_no_network_and_no_gin(module):
    loaded = reach(module)
    allowed = {"root", "pipelines", *MAY_IMPORT["root"], *MAY_IMPORT["pipelines"], "structures", "ranges", "ops"}
    assert {layer(name) for name in loaded if ours(name)} <= allowed
    assert not {name for name in loaded if re.match(r"gin\b|keras|tensorflow_addons|tensorflow\.keras", name)}


def test_ops_are_pure_and_models_read_no_file():
    assert not {m for m in importers("gin") if layer(m) in {"ops", "structures", "errors", "pipelines", "root"}}
    wrong = []
    for module, path in FILES.items():
        effects = {"ops": r"tf\.Variable|tf\.keras|tf\.summary|", "models": ""}.get(layer(module))
        if effects is None:
            continue
        pattern = re.compile(effects + r"tf\.io\.(gfile|read_file|write_file|TFRecord\w+)|tf\.data\b")
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            opens = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
            if opens or pattern.fullmatch(name):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name or 'open'}")
    assert not wrong


def test_losses_are_computed_by_models_alone():
    users = {layer(module) for module, names in all_imports().items() if "htc_tf.ops.losses" in names}
    assert users <= {"models", "ops"}


def test_drawing_needs_no_tensorflow():
    """What draws is shared with the pipelines' workers and with clients, which have no TensorFlow of their own."""
    assert not {m for m in importers("tensorflow") if layer(m) == "visualization"}


def test_addons_stay_where_they_cannot_reach_an_export():
    """tensorflow-addons and keras-cv end their lives: few files may know them. Custom ops: none, see the export."""
    found = importers("tensorflow_addons"), importers("keras_cv")
    assert found == ({"htc_tf.addons"}, {"htc_tf.models.backbones.keras_cv"})
    users = {m for m, names in all_imports().items() if "htc_tf.addons" in names}
    assert users == {"htc_tf.models.losses", "htc_tf.training.optim"}


def loaded_by(*arguments):
    """What a fresh Python imports when called like that; the call must succeed."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_the_package_alone_loads_no_tensorflow():
    loaded = loaded_by("-c", "import htc_tf")
    assert "htc_tf" in loaded
    assert "tensorflow" not in loaded


def test_annotation_files_are_read_without_tensorflow():
    """Labels are converted, and the plan is made, before a preparation starts TensorFlow and Beam."""
    modules = [f"pipelines.importers.{tool}" for tool in to_coco.TOOLS]
    loaded = loaded_by("-c", f"import {', '.join(['pipelines.to_coco', 'pipelines.plan', *modules])}")
    assert {"pipelines.to_coco", *modules} <= loaded
    assert not {"tensorflow", "apache_beam"} & loaded


@pytest.mark.parametrize("module", COMMANDS)
def test_help_loads_no_tensorflow(module):
    loaded = loaded_by("-m", module, "--help")
    assert "argparse" in loaded
    assert "tensorflow" not in loaded


def test_what_differs_between_linux_and_macs_stays_where_tests_imitate_both():
    assert importers("fcntl") == {"htc_tf.flush", "htc_tf.lock"}
    assert importers("resource") == {"htc_tf.process_memory"}
    texts = {module: path.read_text() for module, path in FILES.items()}
    readers = {"htc_tf.machine", "htc_tf.process_memory", "htc_tf.tensorflow_notes"}
    assert {module for module, text in texts.items() if re.search(r"/proc/|/sys/fs", text)} == readers
    # Linux forks by default, a Mac does not: processes are spawned on both.
    assert importers("multiprocessing") == {"pipelines.shapes"}
    assert 'multiprocessing.get_context("spawn")' in texts["pipelines.shapes"]
    assert {module for module, text in texts.items() if "ProcessPoolExecutor" in text} == {"pipelines.shapes"}
    assert not {module for module, text in texts.items() if re.search(r"\bos\.(fork|sched_)", text)}
