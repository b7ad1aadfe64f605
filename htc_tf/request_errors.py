"""Failures of HTTP requests in a few words, for the one line of an error."""

import re

import requests


def describe(error: requests.RequestException) -> str:
    """Describes a failed request, without the address."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if "timed out" in str(error):
        return "no answer in time"
    named = re.search(r"\[Errno -?\d+\] ([\w ]+)", str(error))  # of the system, inside of a long line
    reason = named[1] if named else type(error).__name__
    proxy = " to the proxy" if isinstance(error, requests.exceptions.ProxyError) else ""
    return f"no connection{proxy} ({reason})"
