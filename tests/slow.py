"""Parameters of further cases of a check: `make test` leaves them out, `make slow` runs them."""

import pytest


def slow(*cases):
    """Returns the cases as pytest parameters marked slow; a tuple is one case of several arguments."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]
