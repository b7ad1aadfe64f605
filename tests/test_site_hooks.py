"""The site of docs/: links of a checkout lead to pages and files of the site."""

import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
from tests import site_hooks

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("link", "folder", "page", "expected"),
    [
        ("[a](../README.md)", "docs", "data.md", "[a](project.md)"),
        ("[a](../SECURITY.md#weights)", "docs", "data.md", "[a](SECURITY.md#weights)"),
        ("[a](../htc_tf/run.py)", "docs", "data.md", "[a](source/htc_tf/run.py)"),
        ("[a](../gin)", "docs", "data.md", "[a](source/gin/files.txt)"),
        ("[a](data.md#x)", "docs", "data.md", "[a](data.md#x)"),
        ("[a](docs/data.md#x)", ".", "project.md", "[a](data.md#x)"),
        ("![a](docs/demo.png)", ".", "project.md", "![a](demo.png)"),
        ("[a](../README.md)", "docs/api", "api/index.md", "[a](../README.md)"),
        ("[a](../../LICENSE)", "docs/api", "api/index.md", "[a](../source/LICENSE)"),
        ("[a](https://example.org/x) [b](#y)", "docs", "data.md", "[a](https://example.org/x) [b](#y)"),
        ("[a](nothing.md)", "docs", "data.md", "[a](nothing.md)"),
    ],
)
def test_links(link, folder, page, expected):
    assert site_hooks.rewrite(link, folder, page)[0] == expected


def test_a_folder_is_a_list_of_its_files():
    assert "htc_shapes.gin" in site_hooks.read(ROOT / "gin" / "files.txt").decode().splitlines()


def test_every_page_is_in_the_navigation():
    """`make docs` also says so, but takes longer."""
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"- (?:\w+: )?([\w/]+\.md)$", text, re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert named == pages | set(site_hooks.PAGES.values())
