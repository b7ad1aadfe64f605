"""python -m tests.benchmarks: measures what the parts of the work cost on this machine, and writes docs/benchmarks.md.

Each measurement is `python -m htc_tf.benchmark` in a process of its own. What was measured is kept in a folder, so that
the command goes on where it was interrupted; what fails is named in the page, and in the exit status. On two idle cores
it takes half an hour. --toy runs all of it on a tiny network, to see that it works.

After it: `tests.benchmarks_page` makes the page of the figures, `tests.benchmarks_growth` the plot of their growth.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import growth as benchmarks_growth
from tests.benchmarks import page as benchmarks_page
from tests.studies import recorded

PAGE = recorded.ROOT / "docs" / "benchmarks.md"
SMALL, TINY = "gin/htc_shapes.gin", "tests/tiny.gin"
# About 0.25, 0.5, 1, 2 and 4 million pixels, of one shape.
AREAS = ((448, 576), (608, 832), (864, 1152), (1216, 1632), (1728, 2304))
PROPOSALS = (250, 500, 1000, 2000)
BATCHES = (1, 2, 4)
OBJECTS = (1, 10, 30, 100)
STEPS = 1000  # after which memory is looked at


class Job(NamedTuple):
    """One call of `htc_tf.benchmark`."""

    name: str
    mode: str
    flags: dict  # without the dashes; a list repeats its flag

    def words(self):
        pairs = [(flag, value) for flag, values in self.flags.items() for value in listed(values)]
        return [f"--mode={self.mode}", *(f"--{flag}={value}" for flag, value in pairs)]


def listed(values):
    return values if isinstance(values, list) else [values]


def sized(height, width, repeats, batch=1, **flags):
    return {"height": height, "width": width, "batch": batch, "repeats": repeats, **flags}


def parts_of_the_work(bfloat16, export):
    """The jobs whose names the page's sections ask for."""
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
        Job("input", "input", {"repeats": 100}),
        Job("masks", "masks", {"repeats": 100}),
        Job("start", "start", {"repeats": 2}),
    ]
    if bfloat16:
        paper = [job for job in jobs if job.mode in ("inference", "train")]
        jobs += [Job(f"{job.name}_bfloat16", job.mode, job.flags | {"precision": "bfloat16"}) for job in paper]
    if export:
        jobs.append(Job("serving", "serving", {"export": export, "repeats": 20}))
    return jobs


def growth_jobs():
    """{(mode, by): [Job, ...]}: series that differ in one number. The paper's network where that is affordable."""
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
        (mode, by): [Job(f"{mode}_{by}_{n}", mode, {**common, **flags}) for n, flags in varied.items()]
        for (mode, by), (varied, common) in series.items()
    }


def memory_job():
    return Job("memory", "train", sized(64, 64, STEPS, batch=2, gin_file=TINY))


def as_toy(job):
    """The same job at a size that takes seconds."""
    flags = job.flags | {"repeats": 20 if job.name == "memory" else 1}
    if job.mode in ("inference", "train", "start"):
        shrunk = {side: max(32, flags[side] // 8) for side in ("height", "width") if side in flags}
        flags |= {"height": 64, "width": 64, "gin_file": TINY} | shrunk
    if job.mode in ("roi_align", "nms", "postprocess"):
        flags |= {"height": 64, "width": 64}
    if job.mode == "eval":
        flags |= {"batch": 2}
    return job._replace(flags=flags)


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/benchmarks"), help="what is measured already")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page; growth.png goes beside it")
    parser.add_argument("--export", help="of htc_tf.export, an absolute path: mode serving is measured too")
    parser.add_argument("--repeats", type=int, help="measurements of each job (default: each job's own)")
    parser.add_argument("--growth", action="store_true", help="measure the growth alone; the rest as it was")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these jobs alone; the rest as it was")
    parser.add_argument("--anew", action="store_true", help="measure again what is measured already")
    parser.add_argument("--toy", action="store_true", help="a tiny network and tiny images throughout")
    return parser.parse_args()


def obtain(job, notebook, chosen, anew):
    """What `htc_tf.benchmark` writes of a job, measured now if it is chosen and not known yet.

    Returns:
        the JSON's content, or {"failed": why there is none}.
    """
    words = job.words()
    entry = notebook.find(job.name, words)
    if chosen and (anew or entry is None):
        print(f"{job.name}: python -m htc_tf.benchmark {' '.join(words)}", flush=True)
        log, output = (notebook.path.parent / f"{job.name}.{ending}" for ending in ("log", "json"))
        log.unlink(missing_ok=True)
        try:
            recorded.call(log, "htc_tf.benchmark", *words, f"--json={output}")
        except SystemExit as error:
            print(error, file=sys.stderr, flush=True)
            return {"failed": f"{job.mode} ended with: {last_line(log)}"}
        entry = notebook.add(job.name, words, {"measured": json.loads(output.read_text())})
    return entry["measured"] if entry else {"failed": "it was left out"}


def last_line(log):
    lines = log.read_text().strip().splitlines() if log.exists() else []
    return lines[-1][:200] if lines else "it said nothing"


def main():
    flags = parse()
    folder = flags.workdir.resolve() / ("toy" if flags.toy else "")
    folder.mkdir(parents=True, exist_ok=True)
    notebook = recorded.Notebook(folder / "done.json")
    series = {key: jobs[: 2 if flags.toy else None] for key, jobs in growth_jobs().items()}
    growing = [job for jobs in series.values() for job in jobs]
    jobs = [*parts_of_the_work(benchmarks_page.has_bfloat16(), flags.export), memory_job(), *growing]
    chosen = {job.name for job in (growing if flags.growth else jobs)}
    if flags.only:
        chosen = set(flags.only)
        if unknown := chosen - {job.name for job in jobs}:
            sys.exit(f"--only {min(unknown)}: there is no such job; there are {', '.join(job.name for job in jobs)}")
    results = {}
    for job in jobs:
        job = as_toy(job) if flags.toy else job
        if flags.repeats:
            job = job._replace(flags=job.flags | {"repeats": flags.repeats})
        results[job.name] = obtain(job, notebook, job.name in chosen, flags.anew)
    curves = benchmarks_growth.curves(series, results)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(benchmarks_page.write(results, curves, toy=flags.toy))
    benchmarks_growth.save(curves, flags.output.with_name("growth.png"))
    failed = [name for name, result in results.items() if "failed" in result]
    print(f"{flags.output}; not measured: {', '.join(failed) or 'nothing'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
