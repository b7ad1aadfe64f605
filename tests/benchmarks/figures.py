"""Readers and formats of what the benchmark commands write with --json: a dictionary per job.

A job without figures is {"failed": reason}.
"""

# Of the machine where the peers were measured and the targets set: FLOP, or bytes read and written, per CPU second.
THEIRS = {"float32": 174e9, "bfloat16": 508e9, "copy": 24e9}
OTHER = "HTC_TF_OTHER_PYTHON"  # variable with the Python of an environment that has another TensorFlow
MMDETECTION_PYTHON = "HTC_TF_MMDETECTION_PYTHON"  # the same for mmdetection


class Missing(Exception):
    """A job has no figures; the message says why."""


def need(results, name):
    """Returns the figures of a job, or raises Missing."""
    if "failed" in results[name]:
        raise Missing(results[name]["failed"])
    return results[name]


def seconds_of(result):
    return result["cpu_seconds"]["median"]


def share(result, unit):
    """Returns the share of a limit among a result's details, or None."""
    details = (v for v in result["details"].values() if isinstance(v, dict))
    return next((v for v in details if v.get("unit") == unit and "share" in v), None)


def percent(value):
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.1f} %"


def short(value):
    """Returns three digits, or all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
