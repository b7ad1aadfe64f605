"""tensorflow-addons where it is installed; where it is not, htc_tf's own optimizers and losses take its place.

Wheels exist for Python 3.11 and older, and not for Linux on ARM. `SGDW`, `LAMB`, `SigmoidFocalLoss` and `GIoULoss` ask
here which of the two they use.
"""

import functools
import sys
import warnings


@functools.cache
def load():
    """Returns the package tensorflow_addons, or None without it; then one line on standard error says so.

    It is imported at the first call, because most commands need nothing of it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the end of its life
        try:
            import tensorflow_addons
        except ImportError as error:
            # The package may also be there and not fit this TensorFlow.
            missing = getattr(error, "name", None) == "tensorflow_addons"
            reason = "is not installed" if missing else f"cannot be imported ({' '.join(str(error).split())[:200]})"
            print(
                f"note: tensorflow-addons {reason}: SGDW, LAMB, SigmoidFocalLoss and GIoULoss use htc_tf's own "
                "implementation, which agrees with it up to float32 rounding and reads and writes the same checkpoints",
                file=sys.stderr,
            )
            return None
    return tensorflow_addons
