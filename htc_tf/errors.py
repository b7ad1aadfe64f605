"""A user's mistake, told in one line, and the exit status that every command answers with.

Everything may raise UserError; only the commands catch it, through `command`. Exit status 0 is success,
2 a user's mistake (one line on standard error, no traceback), 1 anything else (a traceback: our bug).
"""

import functools
import sys


class UserError(Exception):
    """A mistake in a file, a key, a parameter or a flag. The message names it and says what to do."""


def command(main):
    """Makes `main() -> None` a command: UserError becomes one line and exit status 2."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            main(*args, **kwargs)
        except UserError as error:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(1)

    return run
