"""The documentation is true: links lead somewhere, the file list is current, names in docstrings exist."""

import ast
import builtins
import functools
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from tests import architecture

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [path for folder in ("htc_tf", "pipelines") for path in sorted((ROOT / folder).rglob("*.py"))]
LONGEST_README = 160  # lines


def anchors(page):
    """The anchors of a page's headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert not wrong


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w.]+\.md)\)", index))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_the_file_list_is_current():
    """`python -m tests.architecture` writes it anew."""
    text = architecture.PAGE.read_text(encoding="utf-8")
    assert architecture.insert(text, architecture.list_files()) == text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_says_in_one_line_what_it_is(path):
    assert architecture.first_line(path).endswith((".", ":"))


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def definitions(path):
    """Every name that a module defines or imports, at any depth: classes, functions, arguments, attributes, strings."""
    names = set()
    for node in ast.walk(parse(path)):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Name():
                names.add(node.id)
            case ast.arg():
                names.add(node.arg)
            case ast.keyword() if node.arg:
                names.add(node.arg)
            case ast.Attribute():
                names.add(node.attr)
            case ast.alias():
                names.update((node.asname or node.name).split("."))
            case ast.Constant() if isinstance(node.value, str):
                names.add(node.value)
    return names


@functools.cache
def known_names():
    return {name for path in MODULES for name in definitions(path)} | set(dir(builtins))


NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in MODULES}


# Names of other projects that docstrings cite as sources.
CITED = {
    *("FCNMaskHead", "MaxIoUAssigner", "RandomSampler", "bbox_overlaps", "AnchorGenerator", "valid_flags"),
    *("rescale_size", "HybridTaskCascade", "CascadeRCNN", "MaskRCNN", "FasterRCNN", "rleFrString", "num_updates"),
}


def resolves(name):
    """True if a name in backticks is one of the project's modules, or is defined or used somewhere in the project."""
    name = re.sub(r"^(tf|np)(?=\.)", lambda m: {"tf": "tensorflow", "np": "numpy"}[m[0]], name.removesuffix("()"))
    parts, known = name.split("."), known_names()
    if name in CITED or name.endswith((".json", ".jsonl", ".npz", ".gin", ".md", ".py")):
        return True
    if any(module == name or module.endswith(f".{name}") for module in NAMES):
        return True
    if parts[0] in known and len(parts) == 1:
        return True
    for depth in range(len(parts) - 1, 0, -1):  # module.name, module.Class.method
        prefix = ".".join(parts[:depth])
        found = [path for path in MODULES if is_module(path, prefix)]
        if found:
            return any(set(parts[depth:]) <= definitions(path) for path in found)
    if parts[0][:1].isupper() or parts[0] in known:  # Class.method, variable.attribute
        return set(parts) <= known
    return importlib.util.find_spec(parts[0]) is not None  # of a library


def is_module(path, name):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return module == name or module.endswith(f".{name}")


def docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_in_docstrings_exist(path):
    wrong = []
    for text in docstrings(parse(path)):
        names = re.findall(r"(?<!`)`([A-Za-z_][\w.]*(?:\(\))?)`(?!`)", text)
        wrong += [name for name in names if not resolves(name)]
        files = re.findall(r"(?:htc_tf|pipelines|tests|gin|docs)/[\w./]+\.(?:py|gin|md)\b", text)
        wrong += [name for name in files if not (ROOT / name).exists()]
    assert not wrong


def test_no_picture_of_the_docs_is_unused():
    listing = subprocess.run(["git", "ls-files", "docs"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = [name for name in listing.stdout.split() if not name.endswith(".md")]
    assert not [name for name in pictures if name.removeprefix("docs/") not in text]
