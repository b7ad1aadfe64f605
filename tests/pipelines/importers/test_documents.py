"""Files of any sender: encodings are recognized, and entities are refused."""

import os

import pytest

from pipelines.checks import Rejected
from pipelines.importers import documents


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_are_recognized(tmp_path, encoding):
    path = tmp_path / "x"
    path.write_bytes("<a>\u00fc</a>".encode(encoding))
    assert documents.read_text(path) == "<a>\u00fc</a>" and documents.read_xml(path).text == "\u00fc"
    path.write_bytes('["\u00fc"]'.encode(encoding))
    assert documents.read_json(path) == ["\u00fc"]


def test_a_declared_encoding_does_not_hide_entities(tmp_path):
    path = tmp_path / "x"
    text = '<?xml version="1.0" encoding="utf-7"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    for data in (
        text.encode(),
        text.replace("<!D", "+ADwAIQ-D").encode(),
        text.encode("utf-16-be"),
        text.encode("utf-16-le"),
    ):
        path.write_bytes(data)
        with pytest.raises(Rejected):
            documents.read_xml(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(Rejected, match="is a pipe or a device"):
        documents.read_text(tmp_path / "x")


def test_lines_of_a_file_that_others_need(tmp_path):
    """The message is printed behind the name of another file, so it names its own."""
    (tmp_path / "x").write_bytes(b" a \r\n\nb")
    assert documents.read_lines(tmp_path / "x") == ["a", "", "b"]
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(Rejected, match=r"malformed: .*/x: it is not UTF-8"):
        documents.read_lines(tmp_path / "x")


def test_results_and_rejections_are_remembered():
    calls = []

    @documents.cached(maxsize=4)
    def halve(number):
        calls.append(number)
        if number % 2:
            raise Rejected("file_malformed", f"{number} is odd")
        return number // 2

    for _ in range(2):
        assert halve(4) == 2
        with pytest.raises(Rejected, match="file_malformed: 3 is odd") as error:
            halve(3)
        assert error.value.detail == "3 is odd"
    assert calls == [4, 3]


def test_a_missing_and_a_large_file(tmp_path, monkeypatch):
    for read in (documents.read_text, documents.read_xml, documents.read_json):
        with pytest.raises(Rejected, match="No such file"):
            read(tmp_path / "none")
    (tmp_path / "x").write_text("12345")
    monkeypatch.setattr(documents, "MAX_BYTES", 4)
    with pytest.raises(Rejected, match="more than 4 bytes"):
        documents.read_text(tmp_path / "x")
