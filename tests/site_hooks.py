"""Hooks of mkdocs.yml: the site also has the repository's own pages, and the files that pages link to outside of docs/.

Pages are written for a checkout: `../SECURITY.md` is a page beside docs/, `../htc_tf/run.py` a file of the code. On the
site, the first is the page SECURITY.md, and the second a copy in source/. mkdocs then checks every link and anchor.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "project.md"} | {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}
LISTING = "files.txt"  # what a link to a folder leads to
LINK = re.compile(r"(\]\(|^\[[^\]]+\]: )(?!\w+:|#|<)([^)\s#]+)(#[^)\s]*)?(?=[)\s])", re.MULTILINE)


def read(path):
    """Returns the bytes of a file, or the names in a folder for its LISTING."""
    if path.name == LISTING and not path.is_file():
        return "\n".join(sorted(entry.name for entry in path.parent.iterdir())).encode()
    return path.read_bytes()


def resolve(target, folder):
    """Returns where a link leads on the site, relative to its root, or None for a file of docs/ itself.

    Args:
        target: str, the link of a page, without an anchor.
        folder: str, the page's folder, relative to the checkout.
    """
    path = posixpath.normpath(posixpath.join(folder, target))
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"source/{path}/{LISTING}"
    return f"source/{path}" if (ROOT / path).is_file() else None


def rewrite(text, folder, page):
    """Returns a page's text with the links of a checkout replaced by those of the site, and the files they lead to."""
    found = set()

    def replace(match):
        place = resolve(match[2], folder)
        if place is None:
            return match[0]
        found.add(place)
        return f"{match[1]}{posixpath.relpath(place, posixpath.dirname(page) or '.')}{match[3] or ''}"

    return LINK.sub(replace, text), found


def on_files(files, config):
    """Adds the repository's pages, and copies of the files that any page links to."""
    linked = set()
    for name, page in PAGES.items():
        text, found = rewrite((ROOT / name).read_text(encoding="utf-8"), ".", page)
        linked |= found
        files.append(File.generated(config, page, content=text))
    for file in files.documentation_pages():
        if file.src_uri not in PAGES.values():
            linked |= rewrite(file.content_string, posixpath.dirname(f"docs/{file.src_uri}"), file.src_uri)[1]
    for place in sorted(linked):
        if place.startswith("source/"):
            files.append(File.generated(config, place, content=read(ROOT / place.removeprefix("source/"))))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites the links of a page of docs/."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return rewrite(markdown, posixpath.dirname(f"docs/{page.file.src_uri}"), page.file.src_uri)[0]
