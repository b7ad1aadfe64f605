"""The repository's own pages: changelog, citation, security, contributing."""

import datetime
import re
from pathlib import Path

import pytest

import htc_tf
from tests.test_docs import anchors

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]  # of keepachangelog.com, in its order


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_changelog_has_the_form_of_keepachangelog():
    title, *versions = re.split(r"^## ", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert title.startswith("# Changelog\n") and "https://keepachangelog.com/" in title
    assert versions[0].startswith("[Unreleased]\n")
    heads = [version.partition("\n")[0] for version in versions[1:]]
    dates = [datetime.date.fromisoformat(re.fullmatch(r"\[\S+\] - (\S+)", head)[1]) for head in heads]
    assert dates == sorted(dates, reverse=True)
    for version in versions:
        kinds = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert kinds == [kind for kind in KINDS if kind in kinds]


def test_the_changelog_names_this_version():
    newest = re.findall(r"^## \[(\d\S*)\]", read("CHANGELOG.md"), re.MULTILINE)[0]
    assert newest == htc_tf.__version__


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)\s]+)\)", read(page))
    wrong = []
    for target in targets:
        name, _, anchor = target.partition("#")
        file = ROOT / (name or page)
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert not wrong and targets


def check_persons(people):
    """CFF 1.2.0: a person has names, an entity has a name."""
    assert people
    for person in people:
        assert set(person) <= {"family-names", "given-names", "name", "email", "orcid", "affiliation", "website"}
        assert "name" in person or {"family-names", "given-names"} <= set(person)


def test_the_citation_is_valid():
    """The keys that CFF 1.2.0 requires, with its types, and this version."""
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(content)
    allowed = {"abstract", "type", "version", "date-released", "license", "keywords", "preferred-citation"}
    assert set(content) <= {"cff-version", "message", "title", "authors", *allowed}
    assert content["cff-version"] == "1.2.0" and content["type"] == "software"
    assert content["version"] == htc_tf.__version__
    datetime.date.fromisoformat(content["date-released"])  # a string, and not YAML's date
    check_persons(content["authors"])
    paper = content["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper) and paper["type"] == "conference-paper"
    assert isinstance(paper["year"], int) and all(set(row) == {"type", "value"} for row in paper["identifiers"])
    check_persons(paper["authors"])
    # The authors of the README's citation, in its order.
    names = [person["family-names"] for person in paper["authors"]]
    assert ", ".join(names) in read("README.md").replace("\n", " ")


def test_the_date_of_the_citation_is_the_changelog_s():
    (date,) = re.findall(r'^date-released: "(.*)"$', read("CITATION.cff"), re.MULTILINE)
    assert f"## [{htc_tf.__version__}] - {date}\n" in read("CHANGELOG.md")


def test_make_targets_of_contributing_exist():
    targets = set(re.findall(r"make ([a-z_]+)", read("CONTRIBUTING.md")))
    known = set(re.findall(r"^([a-z_]+):", read("Makefile"), re.MULTILINE))
    assert targets <= known and {"check", "test", "release", "docs", "fuzz"} <= targets


def test_files_of_contributing_exist():
    named = re.findall(r"`((?:htc_tf|gin|tests|docs)/[\w/.]+\.\w+)`", read("CONTRIBUTING.md"))
    names = [name for name in named if "NAME" not in name]
    assert names and all((ROOT / name).exists() for name in names)


def test_nobody_publishes_by_accident():
    """A tag is made only where it is asked for, and nothing is uploaded."""
    text = read("Makefile")
    assert text.count("--tag") == text.count("$(if $(filter yes,$(TAG)),--tag)") == 1
    assert not re.search(r"twine upload|git push", text + read(".ci/run"))
