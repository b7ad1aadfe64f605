"""How the page of benchmarks reads what `python -m htc_tf.benchmark --json` wrote: a dictionary for each job.

A job that has no figures is {"failed": why}. Before it: `tests.benchmarks`. After it: the page and its parts.
"""

# Where the peers were measured, and the bars set: FLOP, bytes read and written, for a CPU second.
THEIRS = {"float32": 174e9, "bfloat16": 508e9, "copy": 24e9}


class Missing(Exception):
    """A job has no figures; its message says why."""


def need(results, name):
    if "failed" in results[name]:
        raise Missing(results[name]["failed"])
    return results[name]


def seconds_of(result):
    return result["cpu_seconds"]["median"]


def share(result, unit):
    """What a result says of its share of a limit, or None."""
    said = (v for v in result["details"].values() if isinstance(v, dict))
    return next((v for v in said if v.get("unit") == unit and "share" in v), None)


def percent(value):
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.1f} %"


def short(value):
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
