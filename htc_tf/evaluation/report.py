"""Evaluation report: metrics as Markdown tables, and a folder with them and the charts.

The folder has report.md, precision_recall.png, errors.png, and a confusion matrix for boxes and for masks.
"""

import numpy as np

from htc_tf.evaluation.error_analysis import ERROR_TYPES, analyze_errors, count_confusions, pair_images
from htc_tf.evaluation.evaluator import IOUS, METRICS, UNDEFINED
from htc_tf.visualization import fonts
from htc_tf.visualization.charts import draw_confusion, draw_curves, draw_error_costs

TITLES = {"bbox": "box", "segm": "mask"}
CLASS_METRICS = ("AP", "AP50", "AR100")
CONFUSION_SCORE = 0.3


def format_table(metrics):
    """Returns the metrics of `evaluate_results` in Markdown: over all classes, at each IoU, per class, and the notes.

    A dash stands for an undefined value.
    """
    kinds = [kind for kind in TITLES if f"{kind}/AP" in metrics]
    rows = [[TITLES[kind]] + [_number(metrics[f"{kind}/{name}"]) for name in METRICS] for kind in kinds]
    lines = _markdown(["", *METRICS], rows)
    by_iou = metrics["by_iou"]
    rows = [[TITLES[kind]] + [_number(value) for value in by_iou[kind].values()] for kind in kinds]
    lines += ["", *_markdown(["AP at IoU", *next(iter(by_iou.values()))], rows)]
    head = ["class", "objects", *(f"{TITLES[kind]} {name}" for kind in kinds for name in CLASS_METRICS)]
    rows = [
        [fonts.in_table(name), str(row["objects"])]
        + [_number(row[f"{kind}/{metric}"]) for kind in kinds for metric in CLASS_METRICS]
        for name, row in metrics["per_class"].items()
    ]
    lines += ["", *_markdown(head, rows)]
    if metrics["notes"]:
        lines += ["", *(f"- {note}" for note in metrics["notes"])]
    return "\n".join(lines)


def write_report(evaluation, folder):
    """Writes the folder of tables and charts.

    Args:
        evaluation: Evaluation.
        folder: Path of the folder, created if necessary.
    Returns:
        The charts' data, for JSON: {"errors": {kind: {error type: {"count": ..., "AP50": its cost}}}, "confusion":
        {kind: {"threshold": lowest score, "classes": names, "matrix": rows of counts}}}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = evaluation.inputs.names
    curves = {TITLES[kind]: mean_precision(table["precision"]) for kind, table in evaluation.tables.items()}
    draw_curves(curves, IOUS).savefig(folder / "precision_recall.png")
    analyses, shown = {}, {"errors": {}, "confusion": {}}
    for kind in evaluation.tables:
        pairs = pair_images(evaluation.inputs, kind)
        analysis = analyses[TITLES[kind]] = analyze_errors(pairs, len(names))
        shown["errors"][kind] = {r: {"count": analysis.counts[r], "AP50": analysis.ap_cost[r]} for r in ERROR_TYPES}
        matrix = count_confusions(pairs, len(names), CONFUSION_SCORE)
        entry = {"threshold": CONFUSION_SCORE, "classes": names, "matrix": matrix.tolist()}
        shown["confusion"][kind] = entry
        title = f"{TITLES[kind]}: objects by rows, detections from score {CONFUSION_SCORE} by columns"
        labels = fonts.class_names(names, evaluation.inputs.categories)
        draw_confusion(matrix, labels, title).savefig(folder / f"confusion_{TITLES[kind]}.png")
    panels = {title: (analysis.ap50, analysis.counts, analysis.ap_cost) for title, analysis in analyses.items()}
    draw_error_costs(panels).savefig(folder / "errors.png")
    (folder / "report.md").write_text(_report(evaluation.metrics, analyses), encoding="utf-8")
    return shown


def mean_precision(table):
    """Returns a table [10, 101, K, 4, 3] averaged over the classes with objects, [10, 101]; -1 without any."""
    precision = table[..., 0, -1]  # [10, 101, K], all sizes, 100 detections per image
    defined = (precision > UNDEFINED).all(axis=(0, 1))
    return precision[..., defined].mean(axis=-1) if defined.any() else np.full(precision.shape[:2], UNDEFINED)


def _report(metrics, analyses):
    head = ["error", "meaning", *(f"{title} {what}" for title in analyses for what in ("errors", "AP50"))]
    rows = [
        [
            name,
            meaning,
            *(cell for s in analyses.values() for cell in (str(s.counts[name]), f"+{s.ap_cost[name]:.3f}")),
        ]
        for name, meaning in ERROR_TYPES.items()
    ]
    lines = [
        "# Evaluation",
        "",
        f"{metrics['images']} images. The metrics are COCO's, the errors",
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
        *(f"![confusion matrix, {title}](confusion_{title}.png)\n" for title in analyses),
    ]
    return "\n".join(lines)


def _number(value):
    return "–" if value == UNDEFINED else f"{value:.3f}"


def _markdown(head, rows):
    """Returns the lines of a Markdown table whose columns are aligned in plain text too."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = [":" + "-" * (widths[0] - 1)] + ["-" * (width - 1) + ":" for width in widths[1:]]
    rows = [
        [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        for row in [head, *rows]
    ]
    return ["| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]]]
