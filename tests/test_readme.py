"""The README's list of files names every file, once, in its folder's section, and nothing else."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = {"htc_tf": "*.py", **{f"htc_tf/{part}": "**/*.py" for part in ("models", "ops", "data", "engine")}}
SECTIONS |= {"pipelines": "*.py", "gin": "**/*.gin"}


@pytest.mark.parametrize(("folder", "pattern"), SECTIONS.items())
def test_every_file_is_listed(folder, pattern):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"\*\*{folder}/: .*?\*\*\n(.*?)(?=\n\*\*|\n## )", readme, re.DOTALL)[1]
    listed = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    files = [path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).glob(pattern)]
    assert sorted(listed) == sorted(name for name in files if not name.endswith("__init__.py"))
