"""tests/release.py: what it expects in a distribution, and that it refuses what differs."""

from pathlib import Path

import pytest

from htc_tf.errors import UserError
from tests import release

NAMES = ["LICENSE", "gin/a.gin", "gin/base/b.gin", "htc_tf/py.typed", "htc_tf/web/pages/x.html", "pipelines/y.py"]
NAMES += ["setup.cfg"]


def test_the_files_of_a_wheel():
    assert release.expected_in_wheel(NAMES, "htc_tf-1.0") == {
        "htc_tf-1.0.data/data/share/htc_tf/gin/a.gin",
        "htc_tf-1.0.data/data/share/htc_tf/gin/base/b.gin",
        "htc_tf/py.typed",
        "htc_tf/web/pages/x.html",
        "htc_tf/pipelines/y.py",
        *(f"htc_tf-1.0.dist-info/{name}" for name in release.INFO),
    }


def test_the_files_of_a_source_distribution():
    assert release.expected_in_sdist(["setup.cfg", "gin/a.gin"], "x-1") == {"x-1/setup.cfg", "x-1/gin/a.gin"}


def test_a_distribution_with_other_files_is_refused():
    release.compare(Path("a.whl"), {"a", "b"}, {"a", "b"})
    with pytest.raises(UserError, match=r"a.whl has unexpected files: \['c'\], lacks: \['b'\]"):
        release.compare(Path("a.whl"), {"a", "c"}, {"a", "b"})


def test_a_version_without_its_section_is_refused():
    release.check_changelog("# C\n\n## [1.0] - 2026-01-02\n", "1.0")
    for text in ("## [1.0]\n", "## [1.0rc1] - 2026-01-02\n", "## 1.0 - 2026-01-02\n"):
        with pytest.raises(UserError, match=r"CHANGELOG\.md has no section"):
            release.check_changelog(text, "1.0")


def test_a_failed_program_ends_with_its_message():
    with pytest.raises(UserError, match=r"ended with status 3: broken"):
        release.run("sh", "-c", "echo broken >&2; exit 3")


def test_tags_need_a_clean_checkout(monkeypatch):
    ran = []
    monkeypatch.setattr(release, "run", lambda *words, **options: ran.append(words) or " M setup.cfg\n")
    with pytest.raises(UserError, match="commit these changes before a tag"):
        release.tag("1.0")
    assert ran == [("git", "status", "--porcelain")]
