"""The report of an evaluation: tables in Markdown, and a folder of them with the charts.

Before: `evaluation.evaluator` has counted. After: a person reads. `eval` prints the tables and, if told to, writes the
folder: report.md, precision_recall.png, errors.png, and a confusion matrix for boxes and for masks.
"""

import numpy as np

from htc_tf.evaluation.error_analysis import REASONS, count_confusions, pair_images, split_errors
from htc_tf.evaluation.evaluator import FIGURES, IOUS, UNDEFINED
from htc_tf.visualization import fonts
from htc_tf.visualization.charts import draw_confusion, draw_curves, draw_error_costs

TITLES = {"bbox": "box", "segm": "mask"}
CLASS_FIGURES = ("AP", "AP50", "AR100")
CONFUSION_SCORE = 0.3


def format_table(metrics):
    """The figures of `evaluate_results` in Markdown: over all classes, at each IoU, for each class, and the notes.

    A dash is undefined.
    """
    kinds = [kind for kind in TITLES if f"{kind}/AP" in metrics]
    rows = [[TITLES[kind]] + [_figure(metrics[f"{kind}/{name}"]) for name in FIGURES] for kind in kinds]
    lines = _markdown(["", *FIGURES], rows)
    by_iou = metrics["by_iou"]
    rows = [[TITLES[kind]] + [_figure(value) for value in by_iou[kind].values()] for kind in kinds]
    lines += ["", *_markdown(["AP at IoU", *next(iter(by_iou.values()))], rows)]
    head = ["class", "objects", *(f"{TITLES[kind]} {name}" for kind in kinds for name in CLASS_FIGURES)]
    rows = [
        [fonts.in_table(name), str(row["objects"])]
        + [_figure(row[f"{kind}/{figure}"]) for kind in kinds for figure in CLASS_FIGURES]
        for name, row in metrics["per_class"].items()
    ]
    lines += ["", *_markdown(head, rows)]
    if metrics["notes"]:
        lines += ["", *(f"- {note}" for note in metrics["notes"])]
    return "\n".join(lines)


def write_report(evaluation, folder):
    """Writes the folder of tables and charts.

    Args:
        evaluation: `evaluator.Evaluation`.
        folder: a Path; made if it is not there.

    Returns:
        What the charts show, for json: {"errors": {kind: {reason: {"count": ..., "AP50": what it costs}}},
        "confusion": {kind: {"threshold": lowest score that counts, "classes": names, "matrix": rows of counts}}}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = evaluation.case.names
    curves = {TITLES[kind]: mean_precision(table["precision"]) for kind, table in evaluation.tables.items()}
    draw_curves(curves, IOUS).savefig(folder / "precision_recall.png")
    splits, shown = {}, {"errors": {}, "confusion": {}}
    for kind in evaluation.tables:
        pairs = pair_images(evaluation.case, kind)
        split = splits[TITLES[kind]] = split_errors(pairs, len(names))
        shown["errors"][kind] = {r: {"count": split.counts[r], "AP50": split.prices[r]} for r in REASONS}
        matrix = count_confusions(pairs, len(names), CONFUSION_SCORE)
        entry = {"threshold": CONFUSION_SCORE, "classes": names, "matrix": matrix.tolist()}
        shown["confusion"][kind] = entry
        title = f"{TITLES[kind]}: objects by rows, detections from score {CONFUSION_SCORE} by columns"
        labels = fonts.class_names(names, evaluation.case.categories)
        draw_confusion(matrix, labels, title).savefig(folder / f"confusion_{TITLES[kind]}.png")
    panels = {title: (split.ap50, split.counts, split.prices) for title, split in splits.items()}
    draw_error_costs(panels).savefig(folder / "errors.png")
    (folder / "report.md").write_text(_report(evaluation.metrics, splits), encoding="utf-8")
    return shown


def mean_precision(table):
    """[10, 101, K, 4, 3] -> [10, 101]: the mean over the classes that have objects; -1 where none has."""
    precision = table[..., 0, -1]
    defined = (precision > UNDEFINED).all(axis=(0, 1))
    return precision[..., defined].mean(axis=-1) if defined.any() else np.full(precision.shape[:2], UNDEFINED)


def _report(metrics, splits):
    head = ["why AP50 is not 1", "what it is", *(f"{title} {what}" for title in splits for what in ("errors", "AP50"))]
    rows = [
        [
            reason,
            meaning,
            *(cell for s in splits.values() for cell in (str(s.counts[reason]), f"+{s.prices[reason]:.3f}")),
        ]
        for reason, meaning in REASONS.items()
    ]
    lines = [
        "# Evaluation",
        "",
        f"{metrics['images']} images. The figures are COCO's, the errors",
        "[TIDE](https://arxiv.org/abs/2008.08115)'s: how much higher AP50 would be without them.",
        "",
        format_table(metrics),
        "",
        "![precision over recall](precision_recall.png)",
        "",
        *_markdown(head, rows),
        "",
        "![errors](errors.png)",
        "",
        *(f"![confusion matrix, {title}](confusion_{title}.png)\n" for title in splits),
    ]
    return "\n".join(lines)


def _figure(value):
    return "–" if value == UNDEFINED else f"{value:.3f}"


def _markdown(head, rows):
    """A table whose columns also line up where Markdown is read as plain text."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = [":" + "-" * (widths[0] - 1)] + ["-" * (width - 1) + ":" for width in widths[1:]]
    rows = [
        [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        for row in [head, *rows]
    ]
    return ["| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]]]
