"""Apache Beam's options: every flag that the preparation leaves to Beam, and the runner that it selects.

Beam's runners go by their short names; so does `DaskRunner` here, which is `pipelines.dask_runner`.
"""

import contextlib
import importlib
import io
import logging
import urllib.error
from collections.abc import Iterable, Iterator

from htc_tf.errors import UserError

from . import files

# Works in this process, or in several on this machine, and needs no download. Beam's own default first tries Prism,
# which it fetches from the network.
DEFAULT = "FnApiRunner"
DASK = "DaskRunner"
PORTABLE = "PortableRunner"
DOCUMENTED = (DASK, "DataflowRunner", "FlinkRunner", DEFAULT, PORTABLE, "PrismRunner", "SparkRunner")
# Beam's own runner gives one worker up to 128 shards, and shows its errors as tracebacks.
DASK_CLASS = f"{__package__}.dask_runner.DaskRunner"
BEAMS_DASK_CLASS = "apache_beam.runners.dask.dask_runner.DaskRunner"
# How Beam's messages begin when it cannot start a runner's job server.
NOT_STARTED = ("Unable to fetch", "Java must be installed", "Java is not correctly installed")
INVALID = "Pipeline has validations errors"  # how Beam's message of missing or wrong flags begins
MAX_REASON = 200  # characters of Beam's message that a line quotes
# Runners by how their own flags begin; all others would ignore these flags.
OWNERS = {
    "--dask_": (DASK,),
    "--direct_": (DEFAULT, "DirectRunner"),
    "--flink_": ("FlinkRunner",),
    "--spark_": ("SparkRunner",),
    "--prism_": ("PrismRunner",),
}


def parse_beam(arguments: list[str]):
    """Returns Beam's PipelineOptions.

    Raises:
        UserError: Beam does not know a flag (it would only warn) or its value, the runner would ignore it, or the
            package that has the flags of the named runner is not installed.
    """
    with without_warnings(), _usage_errors():
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

        named = PipelineOptions(arguments).view_as(StandardOptions).runner
        runner = named or DEFAULT
        if runner.lower() in (DASK.lower(), DASK.lower().removesuffix("runner"), BEAMS_DASK_CLASS.lower()):
            runner = DASK_CLASS
        if runner == DASK_CLASS:
            _import_dask()  # Beam learns this runner's flags when it is imported
        options = PipelineOptions(arguments)
        options.view_as(StandardOptions).runner = runner
        known = options.get_all_options()
        kept = options.get_all_options(retain_unknown_options=True)
    given = {word.partition("=")[0] for word in arguments}
    unknown = [f"--{name}" for name in kept if name not in known and f"--{name}" in given]
    # A word after a flag is that flag's value.
    before = ["", *arguments]
    unknown += [word for word, last in zip(arguments, before, strict=False) if _is_stray(word, last)]
    _check_owners(given, DASK if runner == DASK_CLASS else runner)
    if unknown:
        raise UserError(f"neither this command nor Apache Beam knows {', '.join(unknown)}; see --help")
    local = "on this machine use --direct_running_mode=multi_processing --direct_num_workers=N"
    if known["num_workers"] and runner in (DEFAULT, DASK_CLASS):
        remedy = "`dask worker --nworkers=N` starts Dask's" if runner == DASK_CLASS else local
        raise UserError(f"--num_workers is for cloud runners; {remedy}")
    workers = known["direct_num_workers"]
    if workers is not None and workers < 0:
        raise UserError(f"--direct_num_workers {workers}: give a whole number, 0 for one worker per core")
    if workers not in (None, 1) and known["direct_running_mode"] in (None, "in_memory"):
        raise UserError(f"--direct_num_workers {workers} has no effect in one process; {local}")
    return options


def check_runner(options) -> None:
    """Imports the runner that the options select.

    Raises:
        UserError: Beam does not know it, or lacks a package for it.
    """
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.runners.runner import create_runner

    name = options.view_as(StandardOptions).runner
    if name == DEFAULT:
        return  # its import takes a second
    try:
        with without_warnings():
            create_runner(name)
    except ImportError as error:
        raise UserError(f"--runner {name}: {error}") from error
    except (ValueError, AttributeError, TypeError):  # TypeError from a name of something that is no runner
        raise UserError(f"--runner {name}: no such runner; give one of {', '.join(DOCUMENTED)}") from None


def explain_failure(error: Exception, options) -> Exception:
    """Returns a UserError if the runner refuses its flags, or its service cannot be reached; else the error itself."""
    import grpc
    from apache_beam.options.pipeline_options import StandardOptions

    name = options.view_as(StandardOptions).runner
    if str(error).startswith(INVALID):
        return UserError(f"--runner {name}: {error}")
    unreachable = isinstance(error, (grpc.RpcError, grpc.FutureTimeoutError, urllib.error.URLError, ConnectionError))
    if name == DEFAULT or not (unreachable or str(error).startswith(NOT_STARTED)):
        return error
    lines = str(error).splitlines() or ["it did not answer in time"]
    return UserError(
        f"--runner {name}: its service cannot be reached or started: {lines[0][:MAX_REASON]}; "
        "docs/data.md says what each runner needs"
    )


def open_stores(paths: Iterable[str], beam_options) -> None:
    """Passes Beam's options to its FileSystems, if any path is in a store.

    Raises:
        UserError: No installed file system supports the path's scheme.
    """
    remote = [path for path in paths if files.is_remote(path)]
    if not remote:
        return
    from apache_beam.io.filesystems import FileSystems

    FileSystems.set_options(beam_options)
    for path in remote:
        try:
            FileSystems.get_filesystem(path)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Hides Beam's warnings of missing Google clients, and of unknown flags, which are errors here."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _import_dask():
    try:
        importlib.import_module(f"{__package__}.dask_runner")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("dask", "distributed"):
            raise
        raise UserError(
            f"--runner {DASK} needs the package {package}: `pip install 'htc_tf[dask]'` brings it"
        ) from error


@contextlib.contextmanager
def _usage_errors():
    """Turns the end of the process at a wrong value, after the usage of all flags of Beam, into a UserError."""
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            yield
    except SystemExit:
        reason = usage.getvalue().rstrip().rpartition("\n")[2].partition(": error: ")[2]
        raise UserError(reason.removeprefix("argument ")) from None


def _check_owners(flags, runner):
    names = {name.lower().removesuffix("runner"): name for name in (*DOCUMENTED, "DirectRunner")}
    name = names.get(runner.lower().removesuffix("runner"), PORTABLE)  # a portable runner's service may read any flag
    for flag in sorted(flags):
        owners = next((owners for start, owners in OWNERS.items() if flag.startswith(start)), None)
        if owners and name not in (*owners, PORTABLE):
            raise UserError(f"{flag} is for --runner={owners[0]}, but the runner is {name}")


def _is_stray(word, last):
    if word.startswith("-"):
        return word == "--" or not word.startswith("--")
    return not last.startswith("--") or "=" in last
