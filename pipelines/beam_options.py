"""What of a command line is meant for Apache Beam, and the default runner.

Called by the commands that run a Beam job, with the arguments that are not their own.
"""

import contextlib
import logging

from htc_tf.errors import UserError

# Works in this process, or in several on this machine, and needs no download. Beam's own default first tries Prism,
# a program that it fetches from the network.
RUNNER = "FnApiRunner"


def parse_beam(arguments: list[str]):
    """The PipelineOptions of the arguments.

    Raises:
      UserError: a flag that Beam does not know (it would only warn), or one that the default runner does not heed.
    """
    with _without_warnings():
        from apache_beam.options.pipeline_options import PipelineOptions

        names_runner = any(word.split("=")[0] == "--runner" for word in arguments)
        options = PipelineOptions(arguments if names_runner else [f"--runner={RUNNER}", *arguments])
        known = options.get_all_options()
        unknown = [f"--{name}" for name in options.get_all_options(retain_unknown_options=True) if name not in known]
    # A word is a flag's value if a flag comes before it.
    before = ["", *arguments]
    unknown += [word for word, last in zip(arguments, before, strict=False) if _is_stray(word, last)]
    if unknown:
        raise UserError(f"neither this command nor Apache Beam knows {', '.join(unknown)}; see --help")
    if known["num_workers"] and not names_runner:
        raise UserError(
            "--num_workers is for cloud runners; "
            "here it is --direct_running_mode=multi_processing --direct_num_workers=N"
        )
    return options


def _is_stray(word, last):
    if word.startswith("-"):
        return not word.startswith("--")
    return not last.startswith("--") or "=" in last


@contextlib.contextmanager
def _without_warnings():
    """Beam warns of Google clients that are not installed, and of unknown flags, which are errors here."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
