"""The preparation on a Dask cluster: Beam's DaskRunner with one task per shard, and with errors in one line.

Dask moves the shards of a worker that dies to other workers. Without --dask_client_address or --dask_scheduler_file,
and without `scheduler-address` in Dask's configuration, it starts a cluster of processes on this machine.
"""

import importlib.util
import os
import sys
import warnings

import dask

# Set before `distributed` is imported, and passed on to the processes that it starts on this machine. Its messages
# would disturb the progress bar; a cluster's own log files are not affected.
_NAMES = ("distributed", "distributed.client", "distributed.nanny", "distributed.worker", "distributed.scheduler")
dask.config.set({"logging": {name: "critical" for name in _NAMES}})

import distributed  # noqa: E402
from apache_beam.runners.dask import dask_runner  # noqa: E402

from htc_tf.errors import UserError  # noqa: E402

# Only of the processes: Beam's import warns of missing Google clients.
dask.config.set({"logging.root": "error"})
ENVIRONMENT = "all need the same environment as this command, with htc_tf[cpu,prepare,dask]"
AGAIN = "finished shards are kept: run the same command to continue"


class DaskRunner(dask_runner.DaskRunner):
    """Runs each element of a pipeline's `Create`, here a shard, as a task of its own, and waits for all of them."""

    def run_pipeline(self, pipeline, options):
        """Runs the pipeline.

        Returns:
            A finished job.
        Raises:
            UserError: No scheduler answers, or too many workers died, or the workers lack a package.
        """
        settings = options.view_as(dask_runner.DaskOptions)
        for flag, number in (("npartitions", settings.npartitions), ("partition_size", settings.partition_size)):
            if number is not None and number < 1:
                raise UserError(f"--dask_{flag} {number}: give a whole number, 1 or more")
        if not settings.npartitions and not settings.partition_size:
            settings.partition_size = 1
        if settings.scheduler_file and not os.path.isfile(settings.scheduler_file):  # the client would wait forever
            raise UserError(f"--dask_scheduler_file {settings.scheduler_file}: no such file")
        where = settings.address or settings.scheduler_file or dask.config.get("scheduler-address", None)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            warnings.filterwarnings("ignore", message="Port .* is already in use")  # of the monitoring page
            try:
                if where:
                    _check_workers(settings)
                job = super().run_pipeline(pipeline, options)
            except (OSError, ValueError) as error:
                reason = f"no scheduler answers: {error}" if where else f"no local cluster can be started: {error}"
                raise UserError(f"--runner DaskRunner: {where or 'this machine'}: {reason}") from error
            with job.client:
                if where and not job.client.scheduler_info()["workers"]:
                    print(f"the Dask scheduler {where} has no workers: waiting for some", file=sys.stderr)
                _wait(job)
        return _Finished(job.client, job.futures)


class _Finished(dask_runner.DaskRunnerResult):
    def wait_until_finish(self, duration=None):
        return self.state


def _check_workers(settings):
    """Checks that the present workers have this package: one without it would leave the cluster at its first task."""
    options = settings.get_all_options(drop_default=True, current_only=True)
    dask_runner.DaskOptions._extract_bag_kwargs(options)
    with distributed.Client(**options) as client:
        found = client.run(importlib.util.find_spec, __package__, on_error="return")  # without htc_tf, an error
    for address, spec in found.items():
        if spec is None or isinstance(spec, Exception):
            raise UserError(f"--runner DaskRunner: the worker {address} lacks htc_tf: {ENVIRONMENT}")


def _wait(job):
    try:
        job.wait_until_finish()
        if not all(future.status == "finished" for future in job.futures):  # Beam takes no notice of a lost scheduler
            raise OSError("connection lost")
    except distributed.KilledWorker as error:
        raise UserError(
            f"{error.allowed_failures + 1} Dask workers died while they wrote the same shard; "
            f"is their memory exhausted? {AGAIN}, with fewer threads per worker"
        ) from error
    except (distributed.client.FutureCancelledError, distributed.comm.CommClosedError, OSError) as error:
        raise UserError(f"the Dask scheduler ended or canceled the job ({error}); {AGAIN}") from error
    except (ImportError, RuntimeError) as error:
        missing = _find_missing(error)
        if not missing:
            raise
        raise UserError(f"the Dask scheduler or its workers lack the module {missing}: {ENVIRONMENT}") from error


def _find_missing(error):
    """Returns the module that could not be imported, from an error or its causes; None if that is not the reason."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            return error.name
        error = error.__cause__ or error.__context__
    return None
