"""Charts of an evaluation: precision-recall curves, a confusion matrix, and the AP50 that each kind of error costs.

Drawn by matplotlib, without pyplot and so without global state. `evaluation.report` saves the figures.
"""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from htc_tf.visualization import fonts
from htc_tf.visualization.palette import palette

DPI = 100
TEXT, FAINT, BACKGROUND = "#28282e", "#787880", "#fafaf8"
RECALLS = np.linspace(0, 1, 101)  # COCO's recall thresholds
LONGEST_NAME = 24  # characters of a class name beside the confusion matrix
LOWEST_SHARE = 0.005  # share of a row from which a cell of the confusion matrix has a number
MOST_NUMBERED = 24  # classes up to which the cells have numbers

# The loosest IoU is dark blue, the strictest orange; even in lightness, and distinct for color-blind readers.
IOU_COLORS = LinearSegmentedColormap.from_list("iou", ["#173e6e", "#2f9be6", "#f0be3c", "#d55e00"])
RIGHT_COLORS = LinearSegmentedColormap.from_list("right", ["#f4f4f2", "#0072b2"])  # the confusion matrix's diagonal
WRONG_COLORS = LinearSegmentedColormap.from_list("wrong", ["#f4f4f2", "#d55e00"])  # and everything beside it


def draw_curves(precisions, ious):
    """Draws precision over recall at each IoU threshold, a panel for each kind of result.

    Args:
        precisions: {title: [I, 101] float}, the mean precision over the classes at each recall, -1 where undefined.
        ious: I IoU thresholds.
    Returns:
        A matplotlib Figure.
    """
    figure, panels = _new_figure(len(precisions), width=5.6, height=4.8)
    for axes, (title, table) in zip(panels, precisions.items(), strict=True):
        table = np.asarray(table)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision", aspect="equal")
        axes.grid(color="#e2e2e0")
        if (table < 0).any():
            axes.set_title(f"{title}: nothing to find", loc="left")
            continue
        axes.set_title(f"{title}: AP {table.mean():.3f}", loc="left")
        for row, iou, color in zip(table, ious, IOU_COLORS(np.linspace(0, 1, len(ious))), strict=True):
            axes.plot(RECALLS, row, color=color, linewidth=1.6, label=f"{iou:.2f}   {row.mean():.2f}")
        legend = axes.legend(title="IoU      AP", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        legend.get_title().set_color(FAINT)
    return figure


def draw_confusion(matrix, names, title="objects by rows, detections by columns"):
    """Draws the confusion matrix of `evaluation.error_analysis.count_confusions`.

    Classes without objects and detections are left out. A cell's color, and its number where there is room, is its
    share of the row.

    Args:
        matrix: [K + 1, K + 1] int, objects by rows and detections by columns; the last row and column are background.
        names: K class names; long ones are cut.
        title: A line above the matrix.
    Returns:
        A matplotlib Figure.
    """
    matrix = np.asarray(matrix)
    background = len(matrix) - 1
    shown = [i for i in range(background) if matrix[i].any() or matrix[:, i].any()] + [background]
    counts = matrix[shown].sum(axis=1)
    matrix = matrix[np.ix_(shown, shown)]
    shares = matrix / np.maximum(counts, 1)[:, np.newaxis]
    labels = [_cut(fonts.class_name(names[i], i)) for i in shown[:-1]]

    side = float(np.clip(0.45 * len(shown), 2.5, 9))  # inches
    figure = Figure(figsize=(side + 3.2, side + 2.6), dpi=DPI, facecolor=BACKGROUND, layout="constrained")
    axes = figure.add_subplot()
    # Correct cells in blue, confusions in orange; the square root makes rare confusions visible.
    correct = np.eye(len(shown), dtype=bool)
    correct[-1, -1] = False
    for colors, hidden in ((RIGHT_COLORS, ~correct), (WRONG_COLORS, correct)):
        axes.imshow(np.ma.array(np.sqrt(shares), mask=hidden), cmap=colors, vmin=0, vmax=1)
    if len(shown) <= MOST_NUMBERED:
        for row, column in np.argwhere(shares >= LOWEST_SHARE):
            share = shares[row, column]
            color = BACKGROUND if share > 0.4 else TEXT
            axes.text(column, row, f"{share:.2f}".removeprefix("0"), ha="center", va="center", size=8, color=color)
    size = float(np.clip(400 / len(shown), 5, 10))
    rows = [f"{label}  {count}" for label, count in zip([*labels, "background"], counts, strict=True)]
    axes.set_xticks(range(len(shown)), [*labels, "missed"], rotation=90, size=size)
    axes.set_yticks(range(len(shown)), rows, size=size)
    axes.xaxis.tick_top()
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)  # a dollar sign in a class name is a dollar sign
        text.set_fontproperties(FontProperties(fname=fonts.path_of(text.get_text()), size=size))
    for line in (axes.axhline, axes.axvline):  # "background" and "missed" stand apart
        line(len(shown) - 1.5, color=BACKGROUND, linewidth=3)
    _clear_frame(axes)
    figure.suptitle(title, x=0.02, ha="left", size=11, color=TEXT)
    return figure


def draw_error_costs(panels):
    """Draws the AP50 that each kind of error costs as bars, a panel for each kind of result.

    Args:
        panels: {title: (ap50, counts, costs)}: a float, -1 where undefined; {kind of error: number of errors}; and
            {kind of error: the AP50 that they cost}.
    Returns:
        A matplotlib Figure.
    """
    figure, subplots = _new_figure(len(panels), width=4.8, height=2.9)
    longest = max([*(cost for _, _, costs in panels.values() for cost in costs.values()), 0.01])
    for axes, (title, (ap50, counts, costs)) in zip(subplots, panels.items(), strict=True):
        kinds, lengths = list(costs), np.maximum(list(costs.values()), 0)
        axes.set_title(f"{title}: nothing to find" if ap50 < 0 else f"{title}: AP50 {ap50:.3f}", loc="left")
        axes.barh(kinds, np.full(len(kinds), longest), color="#f0f0ee", height=0.6)
        axes.barh(kinds, lengths, color=palette(len(kinds)) / 255, height=0.6)
        for place, (kind, cost) in enumerate(zip(kinds, lengths, strict=True)):
            axes.text(1.04 * longest, place, f"+{cost:.3f}", va="center", size=9)
            axes.text(1.55 * longest, place, str(counts[kind]), va="center", ha="right", size=8, color=FAINT)
        axes.set(xlim=(0, 1.6 * longest), xticks=[])
        axes.invert_yaxis()
        _clear_frame(axes)
    return figure


def _new_figure(panels, width, height):
    """Returns a figure and its panels side by side, `width` x `height` inches each."""
    figure = Figure(figsize=(width * panels, height), dpi=DPI, facecolor=BACKGROUND, layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _clear_frame(axes):
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_facecolor(BACKGROUND)


def _cut(name):
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + fonts.ELLIPSIS
