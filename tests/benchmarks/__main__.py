"""python -m tests.benchmarks: measures the cost of each part of the work on this machine and writes docs/benchmarks.md.

Each job is a benchmark command in a process of its own. Results are kept in --workdir, so an interrupted run continues
after the last finished job; failed jobs are named in the page and set exit status 1. On two idle cores it takes half an
hour. HTC_TF_OTHER_PYTHON, the Python of another environment, adds a comparison with its TensorFlow, and
HTC_TF_MMDETECTION_PYTHON one with mmdetection. --toy runs everything on a tiny network, to try the program itself.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from htc_tf.progress import progress_bar
from tests.benchmarks import growth, page
from tests.benchmarks.figures import MMDETECTION_PYTHON, OTHER
from tests.studies import recorded

PAGE = recorded.ROOT / "docs" / "benchmarks.md"
SMALL, TINY = "gin/htc_shapes.gin", "tests/tiny.gin"
USERS, MAKERS = "htc_tf.benchmark", "tests.benchmarks.measure"
# About 0.25, 0.5, 1, 2 and 4 million pixels of one aspect ratio.
AREAS = ((448, 576), (608, 832), (864, 1152), (1216, 1632), (1728, 2304))
PROPOSALS = (250, 500, 1000, 2000)
BATCHES = (1, 2, 4)
OBJECTS = (1, 10, 30, 100)
STEPS = 1000  # of the memory job


class Job(NamedTuple):
    """One call of a benchmark command."""

    name: str
    mode: str
    flags: dict  # without dashes; a list repeats its flag
    module: str = MAKERS

    def words(self):
        pairs = [(flag, value) for flag, values in self.flags.items() for value in listed(values)]
        return [f"--mode={self.mode}", *(f"--{flag}={value}" for flag, value in pairs)]


def listed(values):
    return values if isinstance(values, list) else [values]


def sized(height, width, repeats, batch=1, **flags):
    return {"height": height, "width": width, "batch": batch, "repeats": repeats, **flags}


def main_jobs(bfloat16, export, other=None, mmdetection=None):
    """Returns the jobs whose names the page's sections ask for."""
    jobs = [
        Job("machine", "machine", {"repeats": 3}),
        Job("machine_bfloat16", "machine", {"repeats": 1, "precision": "bfloat16"}),
        Job("inference", "inference", sized(800, 1344, 5)),
        Job("inference_512", "inference", sized(512, 512, 5)),
        Job("train", "train", sized(800, 1344, 3)),
        Job("train_512", "train", sized(512, 512, 3, batch=2)),
        Job("roi_align", "roi_align", {"repeats": 10}),
        Job("nms", "nms", {"repeats": 20}),
        Job("postprocess", "postprocess", {"repeats": 50}),
        Job("eval", "eval", {"repeats": 3}),
        Job("input", "input", {"repeats": 100}, USERS),
        Job("masks", "masks", {"repeats": 100}),
        Job("start", "start", {"repeats": 2}),
    ]
    if bfloat16:
        paper = [job for job in jobs if job.mode in ("inference", "train")]
        jobs += [Job(f"{job.name}_bfloat16", job.mode, job.flags | {"precision": "bfloat16"}) for job in paper]
    if other:
        jobs.append(Job("environments", "environments", {"repeats": 3}))
    if mmdetection:
        jobs.append(Job("mmdetection", "mmdetection", sized(800, 1344, 3)))
    if export:
        jobs.append(Job("serving", "serving", {"export": export, "repeats": 20}, USERS))
    return jobs


def growth_jobs():
    """Returns {(mode, by): [Job, ...]}: series that vary one number, with the paper's network where affordable."""
    areas = {height * width: {"height": height, "width": width} for height, width in AREAS}
    proposals = {n: {"gin_param": [f"RPN.inference_proposals={n}", "MASKS=False"]} for n in PROPOSALS}
    batches, objects = ({n: {flag: n} for n in values} for flag, values in (("batch", BATCHES), ("objects", OBJECTS)))
    small = sized(512, 512, 9, gin_file=SMALL)
    series = {
        ("inference", "area"): (areas, {"batch": 1, "repeats": 2}),
        ("train", "area"): (areas, {"batch": 1, "repeats": 2, "gin_file": SMALL}),
        ("inference", "proposals"): (proposals, small),
        ("inference", "batch"): (batches, small),
        ("train", "batch"): (batches, small),
        ("train", "objects"): (objects, {**small, "gin_param": [f"MAX_OBJECTS={max(OBJECTS)}"]}),
        ("input", "objects"): (objects, {"repeats": 10}),
    }
    return {
        (mode, by): [
            Job(f"{mode}_{by}_{n}", mode, {**common, **flags}, USERS if mode == "input" else MAKERS)
            for n, flags in varied.items()
        ]
        for (mode, by), (varied, common) in series.items()
    }


def memory_job():
    return Job("memory", "train", sized(64, 64, STEPS, batch=2, gin_file=TINY), USERS)


def as_toy(job):
    """Returns the same job at a size that takes seconds."""
    flags = job.flags | {"repeats": 20 if job.name == "memory" else 1}
    if job.mode in ("inference", "train", "start", "environments", "mmdetection"):
        shrunk = {side: max(32, flags[side] // 8) for side in ("height", "width") if side in flags}
        flags |= {"height": 64, "width": 64, "gin_file": TINY} | shrunk
    if job.mode in ("roi_align", "nms", "postprocess"):
        flags |= {"height": 64, "width": 64}
    if job.mode == "eval":
        flags |= {"batch": 2}
    return job._replace(flags=flags)


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/benchmarks"), help="results so far, and logs")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page; growth.png is written beside it")
    parser.add_argument("--export", help="an export's absolute path: mode serving is measured too")
    parser.add_argument("--repeats", type=int, help="measurements of each job (default: each job's own)")
    parser.add_argument("--growth", action="store_true", help="measure the growth only; take the rest from --workdir")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these jobs only; take the rest as above")
    parser.add_argument("--anew", action="store_true", help="measure jobs again that have results")
    parser.add_argument("--toy", action="store_true", help="a tiny network and tiny images throughout")
    return parser.parse_args()


def obtain(job, cache, chosen, anew):
    """Returns the JSON of a job, measured now if it is chosen and has no result yet, or {"failed": reason}."""
    words = job.words()
    how = [job.module, *words]
    entry = cache.find(job.name, how)
    if chosen and (anew or entry is None):
        log, output = (cache.path.parent / f"{job.name}.{ending}" for ending in ("log", "json"))
        log.unlink(missing_ok=True)
        try:
            recorded.run_module(log, job.module, *words, f"--json={output}")
        except SystemExit as error:
            print(error, file=sys.stderr, flush=True)
            return {"failed": f"{job.mode} ended with: {last_line(log)}"}
        entry = cache.add(job.name, how, {"measured": json.loads(output.read_text())})
    return entry["measured"] if entry else {"failed": "it was left out"}


def last_line(log):
    lines = log.read_text().strip().splitlines() if log.exists() else []
    return lines[-1][:200] if lines else "no output"


def main():
    flags = parse()
    folder = flags.workdir.resolve() / ("toy" if flags.toy else "")
    folder.mkdir(parents=True, exist_ok=True)
    cache = recorded.ResultCache(folder / "done.json")
    series = {key: jobs[: 2 if flags.toy else None] for key, jobs in growth_jobs().items()}
    growing = [job for jobs in series.values() for job in jobs]
    pythons = map(os.environ.get, (OTHER, MMDETECTION_PYTHON))
    jobs = [*main_jobs(page.has_bfloat16(), flags.export, *pythons), memory_job(), *growing]
    chosen = {job.name for job in (growing if flags.growth else jobs)}
    if flags.only:
        chosen = set(flags.only)
        if unknown := chosen - {job.name for job in jobs}:
            sys.exit(f"--only {min(unknown)} is no job; choose from {', '.join(job.name for job in jobs)}")
    results = {}
    bar = progress_bar(jobs, unit="job", desc="benchmarks")
    for job in bar:
        bar.set_postfix_str(job.name)
        job = as_toy(job) if flags.toy else job
        if flags.repeats:
            job = job._replace(flags=job.flags | {"repeats": flags.repeats})
        results[job.name] = obtain(job, cache, job.name in chosen, flags.anew)
    curves = growth.curves(series, results)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(page.write(results, curves, toy=flags.toy))
    growth.draw(curves).savefig(flags.output.with_name("growth.png"))
    failed = [name for name, result in results.items() if "failed" in result]
    print(f"wrote {flags.output} and growth.png beside it; not measured: {', '.join(failed) or 'nothing'}")
    if failed:
        print("the same command tries these jobs again and keeps the others' results")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
