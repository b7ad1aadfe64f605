"""Results from a file: what is no list of results is told so. The checks of truth and results are tested through
`evaluate_results`."""

import json

import pytest

from htc_tf.engine.evaluation.coco_truth import read_results
from htc_tf.errors import UserError


def test_results_come_from_a_file_as_they_went(tmp_path):
    results = [{"image_id": 1, "category_id": 2, "bbox": [0.1, 1 / 3, 2.0, 3.0], "score": 0.1 + 0.2}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert read_results(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("[", "not JSON"), ("{}", "no list"), ("[1]", "no list")]
)
def test_what_is_no_list_of_results_is_refused(tmp_path, content, message):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"results\.json: .*{message}.*results in COCO's format"):
        read_results(path)
