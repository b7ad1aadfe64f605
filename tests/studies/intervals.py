"""Differences of two rows of a study, paired by seed, and their confidence intervals."""

import numpy as np

from tests.studies import recorded

# Two-sided 95 % quantiles of Student's t, by degrees of freedom.
QUANTILES = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def gains(before, after):
    """Compares two rows, paired by seed.

    Args:
        before, after: [S] AP of the two rows.
    Returns:
        (mean difference, its standard error: infinite for a single seed)
    """
    differences = np.subtract(after, before)
    count = len(differences)
    return float(differences.mean()), recorded.deviation(differences) / count**0.5 if count > 1 else float("inf")


def interval(before, after):
    """Returns (mean difference, lowest, highest): the 95 % confidence interval of Student's t, paired by seed."""
    gain, error = gains(before, after)
    half = QUANTILES.get(len(before) - 1, 1.96) * error
    return gain, gain - half, gain + half


def compare(before, after, digits=4):
    """Returns three cells of a table: the mean difference, its 95 % interval, and whether 0 is outside of it."""
    gain, low, high = interval(before, after)
    cells = [f"{gain:+.{digits}f}", f"{low:+.{digits}f} to {high:+.{digits}f}"]
    return [*cells, "yes" if low > 0 or high < 0 else "no"]
