"""python -m tests.architecture: writes the file list of docs/architecture.md from the modules' first lines."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
ABOUT = "The commands, the Python interface, and what all folders share."
START, END = "<!-- files -->\n", "<!-- end of files -->"
ROOMS = ("htc_tf", "models", "models/backbones", "ops", "data", "training", "inference")
ROOMS = [f"htc_tf/{room}".replace("htc_tf/htc_tf", "htc_tf") for room in ROOMS]
ROOMS += ["htc_tf/inference/label_files", "htc_tf/evaluation", "htc_tf/visualization"]
ROOMS += [f"htc_tf/{room}" for room in ("explanation", "serving", "web", "weights")]
ROOMS += ["pipelines", "pipelines/importers"]


def first_line(path):
    """Returns the first line of a module's docstring, or of a gin file's header comment."""
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def list_files():
    """Returns the file list as Markdown: a table for each folder."""
    lines = []
    for room in ROOMS:
        files = sorted((ROOT / room).glob("*.py"))
        about = (
            first_line(ROOT / room / "__init__.py") if room != "htc_tf" else "The commands, and what all folders share."
        )
        lines += [f"### {room}/", "", about, "", "| file | |", "| --- | --- |"]
        lines += [f"| [{p.name}](../{room}/{p.name}) | {first_line(p)} |" for p in files if p.stem != "__init__"]
        lines.append("")
    lines += ["### gin/", "", "| file | |", "| --- | --- |"]
    for path in sorted((ROOT / "gin").rglob("*.gin")):
        name = path.relative_to(ROOT / "gin").as_posix()
        lines.append(f"| [{name}](../gin/{name}) | {first_line(path)} |")
    return "\n".join([*lines, ""])


def insert(text, files):
    """Returns the page's text with the list between its two markers replaced."""
    return re.sub(f"(?<={START}).*(?={END})", lambda _: "\n" + files + "\n", text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), list_files()), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: the file list is up to date")
