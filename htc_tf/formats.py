"""Format numbers of the files that htc_tf writes: a newer number is refused in one line (docs/compatibility.md).

A number rises when an older htc_tf could no longer read what a newer one writes. Files without a number have format 1.
"""

from htc_tf import __version__
from htc_tf.errors import UserError

RUN = 1  # RUN/config.gin with its gin names, and RUN/classes.json
CHECKPOINT = 1  # RUN/checkpoints, the names and shapes of variables
RECORDS = 1  # folders of records: dataset_info.json and the keys of the examples
EXPORT = 1  # SavedModels: signatures, their inputs and outputs


def check(number, newest, path):
    """Checks the format number that a file states.

    Args:
        number: The number; None, for a file of before the numbers, is 1.
        newest: int, the newest format that this htc_tf reads.
        path: The file, for the message.
    Raises:
        UserError: The number is newer, or no format number.
    """
    number = 1 if number is None else number
    if type(number) is not int or number < 1:
        raise UserError(f"{path} is damaged: its format number is {str(number)[:20]!r}; copy it from an intact one")
    if number > newest:
        raise UserError(
            f"{path} has format {number}, of a newer htc_tf; this one is {__version__} and reads format {newest}: "
            "install the newer htc_tf"
        )
