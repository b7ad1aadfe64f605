"""Model card: what an export says about itself to people, in EXPORT/N/assets.extra/model_card.md.

It holds what the run's files state: classes, configuration, hashes of data, weights and model, AP if it was measured or
published, and the license. Lines to fill in by hand are marked with TODO. Its head is Hugging Face's.
"""

import hashlib
import json

from htc_tf import __version__
from htc_tf.checkpoint_files import CheckpointFiles, hash_file
from htc_tf.run import write_whole

CARD = "assets.extra/model_card.md"
METRICS = {"bbox/AP": "box AP", "segm/AP": "mask AP"}
MAX_CLASSES = 100  # names that the card lists; classes.json has all
TEMPLATE = """---
license: {license_id}
library_name: htc_tf
pipeline_tag: image-segmentation
tags: [instance-segmentation, object-detection, tensorflow]
---

# {name}

An instance segmentation model of htc_tf {version} (Hybrid Task Cascade, arXiv:1901.07518), exported as a SavedModel.

- License: {license}
- Intended use, and uses to avoid: TODO
- Signatures, inputs and outputs: docs/serving.md of htc_tf

## Data

- Training data: {data}
- Where the images come from, their licenses, and whom they show: TODO
- {count} classes: {classes}

## Results

{results}

Known weaknesses: TODO

## Hashes

| | SHA-256 |
| --- | --- |
{hashes}

## Configuration

```
{config}
```
"""


def write_card(version, run, config, categories, license=None, public=None):
    """Writes the card of an export, beside its classes.

    Args:
        version: Path of EXPORT/N.
        run: Run that was exported.
        config: str, its resolved gin text.
        categories: [{"id", "name"}, ...] by class index.
        license: SPDX identifier or name of the license of the weights; by default that of `public`.
        public: PublicWeights that the run was converted from, or None.
    Returns:
        The card's Path.
    """
    files = CheckpointFiles(run.checkpoints)
    step, _ = files.newest_intact()
    manifest = {} if step is None else files.manifest(step)
    license = license or (public and public.license)
    named = [category["name"] for category in categories[:MAX_CLASSES]]
    card = TEMPLATE.format(
        name=public.name if public else run.folder.resolve().name,
        version=__version__,
        license=license or "TODO: state it by --license",
        license_id=json.dumps(license.split(",")[0].lower() if license else "unknown"),
        data=describe_data(manifest, public),
        count=len(categories),
        classes=", ".join(named) + (", ... (classes.json)" if len(categories) > MAX_CLASSES else ""),
        results=describe_results(run, step, manifest, public),
        hashes="\n".join(
            f"| {name} | `{digest}` |" for name, digest in list_hashes(version, files.tensorflow_files(step), config)
        ),
        config=config.strip(),
    )
    write_whole(version / CARD, card)
    return version / CARD


def describe_data(manifest, public):
    if public:
        return f"that of {public.name}'s publisher: {public.addresses[0]}"
    if "data" in manifest:
        return f"records with the fingerprint `{manifest['data']}`; TODO: their name and version"
    return "unknown: the weights come from a file of another framework (TODO)"


def describe_results(run, step, manifest, public):
    """Returns the AP at the exported step as a Markdown table, with where it comes from, or that it is not known."""
    if public:
        found = {name: value for name, value in (("box AP", public.box_ap), ("mask AP", public.mask_ap)) if value}
        source = "Published for COCO val2017, not measured again."
    else:
        metrics = read_metrics(manifest.get("metrics")) or read_evaluation(run, step)
        # Negative without objects.
        found = {name: f"{100 * metrics[key]:.1f}" for key, name in METRICS.items() if metrics.get(key, -1) >= 0}
        source = f"Measured on the validation records of the training, after step {step}."
    if not found:
        return "Not known: no evaluation of these weights is in the run (TODO: python -m htc_tf.eval)."
    names, rule, values = (" | ".join(map(str, cells)) for cells in (found, ["---"] * len(found), found.values()))
    return f"| {names} |\n| {rule} |\n| {values} |\n\n{source}"


def read_evaluation(run, step):
    """Returns {name: number} of the evaluation after a step in metrics.jsonl; empty if there is none."""
    found = {}
    try:
        lines = run.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            record = json.loads(line)
            if record["step"] == step:
                found = read_metrics(record) or found
        except (ValueError, KeyError, TypeError, RecursionError):  # a line that a crash has damaged
            continue
    return found


def read_metrics(record):
    """Returns {name: number} of the METRICS in a dict; empty if it is damaged."""
    try:
        return {name: float(record[name]) for name in METRICS if name in record}
    except (TypeError, ValueError, OverflowError):
        return {}


def list_hashes(version, checkpoint, config):
    """Yields (name, SHA-256) of the model's files, of the checkpoint's files and of the configuration."""
    for path in (version / "saved_model.pb", *sorted((version / "variables").glob("*"))):
        if path.is_file():
            yield path.relative_to(version).as_posix(), hash_file(path)
    for path in checkpoint:  # not as its manifest says, which may be damaged
        yield f"checkpoint {path.name}", hash_file(path)
    yield "configuration", hashlib.sha256(config.encode()).hexdigest()
