"""Errors of gin's parser as one line that names the file and the line of the mistake."""

import contextlib
import re
import tokenize
from pathlib import Path

from htc_tf.errors import UserError

MAX_TEXT = 200  # characters of a configuration that a message quotes
# Exceptions of gin for a configuration that it cannot read or resolve.
GIN_ERRORS = (
    *(ValueError, SyntaxError, OSError, TypeError, AttributeError, ImportError, NameError),
    *(tokenize.TokenError, RecursionError, MemoryError),
)


@contextlib.contextmanager
def reading(source):
    """Turns errors of gin's parser into a UserError that begins with the file and, if known, the line.

    Args:
        source: Path of the parsed file, or name of the flag.
    """
    try:
        yield
    except UserError as error:
        raise UserError(shorten(error)) from error  # without the lines that gin adds to exceptions while it parses
    except GIN_ERRORS as error:
        # With nested includes the innermost file comes first.
        located = re.search(r'\n\s*In file "(.*)", line (\d+)', str(error))
        if isinstance(error, SyntaxError):
            located = located or re.search(r"\((?!<)(.*), line (\d+)\)$", str(error))
        where = source
        if located:
            # A syntax error gives the file's name without its folder.
            file = source if Path(source).name == located[1] else located[1]
            where = f"{file}, line {located[2]}"
        raise UserError(f"{where}: {shorten(error)}") from error


def shorten(error):
    """Returns gin's message in one line, without the class, the location and the configuration that gin appends."""
    called = r"\s+In call to configurable '([\w.]+)' \(<(?:class|function) [^\n]*"
    added = r" in config string:|\. Searched config paths|\n\s*In (?:file|bindings) |\n\s*No values supplied"
    message, *configurables = re.split(called, str(error))[:2]
    message = re.split(added, message)[0]
    if isinstance(error, UserError):
        return message
    if isinstance(error, (RecursionError, MemoryError)):
        return "a value is nested too deeply"
    if isinstance(error, tokenize.TokenError):
        return f"a bracket or a quotation mark is not closed ({error.args[0]})"
    if isinstance(error, SyntaxError):
        return f"{explain_syntax(error.msg)}: {(error.text or '').strip()[:MAX_TEXT]}"
    return ": ".join([*configurables, message[: 2 * MAX_TEXT]])


def explain_syntax(message):
    """Returns a syntax error's message; gin's own for a word without quotation marks shows an object's address."""
    word = re.search(r"Failed to parse token '(.*)'", message, re.DOTALL)
    if not word:
        return message.rstrip(".")
    return (
        f"{word[1][:MAX_TEXT]!r} is not a value; a string needs quotation marks inside the shell's "
        "(--gin_param \"PRECISION='bfloat16'\"), a class or function needs an @, and a flag is True or False"
    )
