"""The backbones of keras-cv 0.9 by the names of its presets: which class, built with which arguments.

For `models.backbones.keras_cv`. keras-cv itself keeps the arguments on Kaggle, so that its `from_preset` goes online
even without weights. Each table has the numbers of the architecture's paper. Of 18 that were built, 12 have as many
parameters as keras-cv tells of its presets; MobileNetV3, EfficientNetV1 and EfficientNetLite have a few more or less,
and for densenet121 it tells none.
"""

from typing import NamedTuple


class Architecture(NamedTuple):
    """A class of keras_cv.models and its arguments."""

    kind: str
    arguments: dict


def resnets():
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    for suffix, kind in (("", "ResNetBackbone"), ("_v2", "ResNetV2Backbone")):
        for depth, counts in blocks.items():
            yield (
                f"resnet{depth}{suffix}",
                kind,
                {
                    "stackwise_filters": [64, 128, 256, 512],
                    "stackwise_blocks": list(counts),
                    "stackwise_strides": [1, 2, 2, 2],
                    "block_type": "block" if depth >= 50 else "basic_block",
                },
            )


# Of each block: expansion, filters, kernel, stride, squeeze-and-excitation, activation.
MOBILENETS = {
    "small": (
        (1, 16, 3, 2, 0.25, "relu"),
        (72 / 16, 24, 3, 2, None, "relu"),
        (88 / 24, 24, 3, 1, None, "relu"),
        (4, 40, 5, 2, 0.25, "hard_swish"),
        *[(6, 40, 5, 1, 0.25, "hard_swish")] * 2,
        *[(3, 48, 5, 1, 0.25, "hard_swish")] * 2,
        (6, 96, 5, 2, 0.25, "hard_swish"),
        *[(6, 96, 5, 1, 0.25, "hard_swish")] * 2,
    ),
    "large": (
        (1, 16, 3, 1, None, "relu"),
        (4, 24, 3, 2, None, "relu"),
        (3, 24, 3, 1, None, "relu"),
        (3, 40, 5, 2, 0.25, "relu"),
        *[(3, 40, 5, 1, 0.25, "relu")] * 2,
        (6, 80, 3, 2, None, "hard_swish"),
        (2.5, 80, 3, 1, None, "hard_swish"),
        *[(2.3, 80, 3, 1, None, "hard_swish")] * 2,
        *[(6, 112, 3, 1, 0.25, "hard_swish")] * 2,
        (6, 160, 5, 2, 0.25, "hard_swish"),
        *[(6, 160, 5, 1, 0.25, "hard_swish")] * 2,
    ),
}


def mobilenets():
    fields = ("expansion", "filters", "kernel_size", "stride", "se_ratio", "activation")
    for size, blocks in MOBILENETS.items():
        columns = zip(*blocks, strict=True)
        arguments = {f"stackwise_{field}": list(column) for field, column in zip(fields, columns, strict=True)}
        yield f"mobilenet_v3_{size}", "MobileNetV3Backbone", arguments


def darknets():
    for size, channels, depth in (
        ("tiny", [48, 96, 192, 384], [1, 3, 3, 1]),
        ("s", [64, 128, 256, 512], [1, 3, 3, 1]),
        ("m", [96, 192, 384, 768], [2, 6, 6, 2]),
        ("l", [128, 256, 512, 1024], [3, 9, 9, 3]),
        ("xl", [170, 340, 680, 1360], [4, 12, 12, 4]),
    ):
        arguments = {"stackwise_channels": channels, "stackwise_depth": depth}
        yield f"csp_darknet_{size}", "CSPDarkNetBackbone", arguments
    for size, channels, depth in (
        ("xs", [32, 64, 128, 256], [1, 2, 2, 1]),
        ("s", [64, 128, 256, 512], [1, 2, 2, 1]),
        ("m", [96, 192, 384, 576], [2, 4, 4, 2]),
        ("l", [128, 256, 512, 512], [3, 6, 6, 3]),
        ("xl", [160, 320, 640, 640], [3, 6, 6, 3]),
    ):
        arguments = {"stackwise_channels": channels, "stackwise_depth": depth}
        yield f"yolo_v8_{size}_backbone", "YOLOV8Backbone", arguments


def densenets():
    for depth, repeats in ((121, [6, 12, 24, 16]), (169, [6, 12, 32, 32]), (201, [6, 12, 48, 32])):
        yield f"densenet{depth}", "DenseNetBackbone", {"stackwise_num_repeats": repeats}


# Width and depth of EfficientNet B0 ... B7.
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1))


def efficientnets():
    stacks = {
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    }
    for number, (width, depth) in enumerate(SCALES):
        scaled = {"width_coefficient": width, "depth_coefficient": depth, **stacks}
        squeezed = {**scaled, "stackwise_squeeze_and_excite_ratios": [0.25] * 7}
        yield f"efficientnetv1_b{number}", "EfficientNetV1Backbone", squeezed
        if number <= 4:
            yield f"efficientnetlite_b{number}", "EfficientNetLiteBackbone", scaled


# Of each stack: repeats, filters into it (out of it are those into the next), expansion, stride; then the last filters.
EFFICIENTNETS_V2 = {
    "b": (((1, 32, 1, 1), (2, 16, 4, 2), (2, 32, 4, 2), (3, 48, 4, 2), (5, 96, 6, 1), (8, 112, 6, 2)), 192),
    "s": (((2, 24, 1, 1), (4, 24, 4, 2), (4, 48, 4, 2), (6, 64, 4, 2), (9, 128, 6, 1), (15, 160, 6, 2)), 256),
    "m": (
        ((3, 24, 1, 1), (5, 24, 4, 2), (5, 48, 4, 2), (7, 80, 4, 2), (14, 160, 6, 1), (18, 176, 6, 2), (5, 304, 6, 1)),
        512,
    ),
    "l": (
        ((4, 32, 1, 1), (7, 32, 4, 2), (7, 64, 4, 2), (10, 96, 4, 2), (19, 192, 6, 1), (25, 224, 6, 2), (7, 384, 6, 1)),
        640,
    ),
}
FUSED = 3  # leading stacks, which squeeze nothing either


def efficientnets_v2():
    sizes = [(f"b{number}", "b", *scale) for number, scale in enumerate(SCALES[:4])]
    for name, size, width, depth in (*sizes, ("s", "s", 1.0, 1.0), ("m", "m", 1.0, 1.0), ("l", "l", 1.0, 1.0)):
        stacks, last = EFFICIENTNETS_V2[size]
        repeats, filters, expansions, strides = (list(column) for column in zip(*stacks, strict=True))
        others = len(stacks) - FUSED
        yield (
            f"efficientnetv2_{name}",
            "EfficientNetV2Backbone",
            {
                "width_coefficient": width,
                "depth_coefficient": depth,
                "stackwise_kernel_sizes": [3] * len(stacks),
                "stackwise_num_repeats": repeats,
                "stackwise_input_filters": filters,
                "stackwise_output_filters": [*filters[1:], last],
                "stackwise_expansion_ratios": expansions,
                "stackwise_squeeze_and_excite_ratios": [0.0] * FUSED + [0.25] * others,
                "stackwise_strides": strides,
                "stackwise_conv_types": ["fused"] * FUSED + ["unfused"] * others,
            },
        )


FAMILIES = (resnets, mobilenets, darknets, densenets, efficientnets, efficientnets_v2)
ARCHITECTURES = {name: Architecture(kind, arguments) for family in FAMILIES for name, kind, arguments in family()}

# Presets that are one of these with weights, and what those were trained on.
TRAINED_ON = {
    "_imagenet": (
        *("resnet50", "resnet50_v2", "mobilenet_v3_small", "mobilenet_v3_large", "csp_darknet_tiny", "csp_darknet_l"),
        *("densenet121", "densenet169", "densenet201"),
        *("efficientnetv2_s", "efficientnetv2_b0", "efficientnetv2_b1", "efficientnetv2_b2"),
    ),
    "_coco": tuple(name for name in ARCHITECTURES if name.startswith("yolo_v8")),
}
# {the preset: its architecture}
TRAINED = {name + suffix: name for suffix, names in TRAINED_ON.items() for name in names}
