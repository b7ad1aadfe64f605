"""Composite backbone: names of its parts and links in CBNetV2; Paddle's network has none."""

from htc_tf.weights.tables import res2net, resnet, swin
from htc_tf.weights.tables.kinds import CONVOLUTION, NORM


def inside(name: str, part: str) -> str:
    """Returns a name of a backbone, "backbone" or "backbone. ...", in a part of a composite."""
    return f"backbone.{part}{name.removeprefix('backbone')}"


# fmt: off
LINKS = (
    (("backbone.links.{i}.{j}", "backbone.cb_linears.{i}.{j}", "backbone"), (
        ("convolution",                  "0",                      None,                    CONVOLUTION),
        ("norm",                         "1",                      None,                    NORM),
    )),
)
# fmt: on
PARTS = tuple(
    (
        (inside(ours, "parts.{p}"), inside(theirs, "cb_modules.{p}"), "backbone"),
        tuple((path, module, None, held) for path, module, _, held in rows),
    )
    for (ours, theirs, _), rows in (*resnet.LAYERS, *res2net.LAYERS, *swin.LAYERS)
)
LAYERS = (*LINKS, *PARTS)

# The links, which classifiers lack.
LINK_NAMES = r"^backbone\.cb_linears\."
# In files without a variable here: CBNetV2's second ResNet keeps the norm of the stem that it lacks.
UNREAD = r"^backbone\.cb_modules\.1\.bn1\."
