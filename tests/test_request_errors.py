"""Failed requests in a few words."""

import pytest
import requests

from htc_tf.request_errors import describe


def answer(status, reason):
    response = requests.Response()
    response.status_code, response.reason = status, reason
    return response


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (requests.HTTPError("404 ...", response=answer(404, "Not Found")), "HTTP 404 Not Found"),
        (requests.HTTPError("no answer belongs to it"), "no connection (HTTPError)"),
        (requests.Timeout("it timed out"), "no answer in time"),
        (requests.ConnectionError("... [Errno 111] Connection refused')"), "no connection (Connection refused)"),
    ],
)
def test_a_failure_in_words(error, words):
    assert describe(error) == words
