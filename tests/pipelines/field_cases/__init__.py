"""Datasets as labeling tools and public bug reports show them, each the smallest of its kind, with expected outcome.

`CASES` is the table "Kinds of input" of docs/data.md. `test_field_cases` prepares every one.
"""

from tests.pipelines.field_cases import annotations, files  # noqa: F401  (they register their cases)
from tests.pipelines.field_cases.case import BOXES, CASES, make  # noqa: F401
