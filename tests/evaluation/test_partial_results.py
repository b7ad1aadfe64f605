"""The journal of an evaluation: what a kill leaves of it, and when it is another evaluation's."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from htc_tf.evaluation.partial_results import PartialResults, identify

ENTRIES = [([3, 1], [{"image_id": 3, "score": 0.1 + 0.2}]), ([2], []), ([5, 4], [{"image_id": 4, "score": 1e-3}])]


@pytest.fixture
def path(tmp_path):
    """A journal of three batches, left as a kill leaves it."""
    journal = PartialResults(tmp_path / "x.partial.jsonl", "mine")
    assert journal.entries == []
    for ids, results in ENTRIES:
        journal.write(ids, results)
    return journal.path  # never closed


def test_what_was_written_comes_back_bit_for_bit(path):
    journal = PartialResults(path, "mine")
    assert journal.entries == ENTRIES and journal.images == 5
    journal.write([6], [])
    journal = PartialResults(path, "mine")
    assert journal.entries == [*ENTRIES, ([6], [])]
    journal.remove()
    assert not path.exists()


def test_a_kill_may_come_at_any_byte(path):
    content = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content)):
        path.write_bytes(content[:length])
        whole = max(sum(end <= length for end in ends) - 1, 0)
        assert PartialResults(path, "mine").entries == ENTRIES[:whole]
    path.write_bytes(content[: ends[1]] + b"\xff\n" + content[ends[1] :])  # a damaged line, and what comes after it
    assert PartialResults(path, "mine").entries == ENTRIES[:1]


def test_steps_are_whole(path):
    journal = PartialResults(path, "mine", together=2)
    assert journal.entries == ENTRIES[:2]
    journal.write(*ENTRIES[0])
    journal.write(*ENTRIES[1])
    assert PartialResults(path, "mine", together=2).entries == [*ENTRIES[:2], *ENTRIES[:2]]


def test_another_evaluation_begins_anew_and_says_so(path, capsys):
    assert PartialResults(path, "another's").entries == []
    note = f"note: {path} replaced: 3 batches of an evaluation of other weights, configuration or data\n"
    assert capsys.readouterr().err == note
    assert json.loads(path.read_text()) == {"identity": "another's"}
    assert PartialResults(path, "mine").entries == []
    assert not capsys.readouterr().err  # nothing was lost


def test_identity():
    def model(*values):
        return SimpleNamespace(variables=[SimpleNamespace(numpy=lambda v=v: np.float32(v)) for v in values])

    one = identify(model([1, 2], [[3]]), "config", "data")
    assert one == identify(model([1, 2], [[3]]), "config", "data")
    others = [identify(model([1, 2], [[4]]), "config", "data"), identify(model([1, 2], [[3]]), "configd", "ata")]
    assert len({one, *others}) == 3
