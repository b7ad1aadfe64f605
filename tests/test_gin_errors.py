"""Errors in gin bindings and files: one line that names the mistake."""

import pytest

from htc_tf import config
from htc_tf.errors import UserError

PAPER = "gin/htc_r50_fpn_1x_coco.gin"


@pytest.mark.parametrize(
    "param, named",
    [
        ("HTC.num_stagez=2", "num_stagez"),
        ("Nonsense.value=1", "Nonsense"),
        ("HTC.backbone=@Nonsense()", "Nonsense"),
        ("AdamW.decay=0.1", "AdamW.decay"),
        ("multi_scale.min_sides=[8]", "multi_scale.min_sides"),
        ("stage4/Stage.iou_threshold=0.8", "stage4/Stage.iou_threshold"),
        ("STEPZ=3", "STEPZ"),
        ("STEPS=%NOWHERE", "NOWHERE"),
        ("STEPS='abc'", "STEPS = 'abc'"),
        ("STEPS=2.5", "STEPS = 2.5"),
        ("STEPS=-1", "STEPS = -1"),
        ("BATCH_SIZE='abc'", "BATCH_SIZE = 'abc'"),
        ("BATCH_SIZE=True", "BATCH_SIZE = True"),
        ("BASE_LEARNING_RATE='abc'", "BASE_LEARNING_RATE = 'abc'"),
        ("IMAGE_MIN_SIDE='abc'", "IMAGE_MIN_SIDE = 'abc'"),
        ("IMAGE_MAX_SIDE=1", "Input.max_side = 1"),
        ("MAX_OBJECTS=0", "MAX_OBJECTS = 0"),
        ("PRECISION='half'", "PRECISION = 'half'"),
        ("PRECISION=bfloat16", "PRECISION=bfloat16"),
        ("XLA='yes'", "XLA = 'yes'"),
        ("NUM_STAGES=4", "num_stages = 4"),
        ("train/Input.augment=['flip']", "Input.augment = 'flip': give a function, such as @flip"),
        ("train/Input.augment=@flip", "Input.augment = @flip: give a list of functions"),
        ("train/Input.augment=[@multi_scale]", "Input.augment = @multi_scale: bind multi_scale.min_sides"),
        ("train/Input.resize=[@large_scale_jitter]", "Input.resize = [@large_scale_jitter]: give a function"),
        ("HTC.backbone=None", "HTC.backbone = None: give a layer"),
        ("HTC.rpn=3", "HTC.rpn = 3: give a layer"),
        ("Experiment.optimizer=None", "Experiment.optimizer = None: give an optimizer's recipe"),
        (
            "train/Input.batch_size=5",
            "train/Input.batch_size = 5, but Experiment.batch_size = 16: bind",
        ),
        (
            "Experiment.batch_size=3",
            "train/Input.batch_size = 16, but Experiment.batch_size = 3: bind",
        ),
        ("eval/Input.training=True", "eval/Input.training = True: it must be False"),
        ("train/Input.training=False", "train/Input.training = False: it must be True"),
        ("SemanticHead.channels=64", "SemanticHead.channels = 64, but FPN.channels = 256"),
        ("MaskHead.channels=64", "MaskHead.channels = 64, but FPN.channels = 256"),
        ("NUM_STAGES='x'", "NUM_STAGES = 'x'"),
        ("ResNet.depth=7", "ResNet.depth = 7"),
        ("ResNet.norm='nonsense'", "'nonsense'"),
        ("RoIPooler.implementation='nonsense'", "RoIPooler.implementation = 'nonsense'"),
        ("HTCLoss.box_loss='giou'", "HTCLoss.box_loss is not a loss: 'giou'"),
        ("FocalLoss.gamma=2.0", "FocalLoss.gamma"),
        ("HTCLoss.semantic_mean='nonsense'", "HTCLoss.semantic_mean = 'nonsense'"),
        ("STEPS=3 4", "STEPS=3 4"),
        ("STEPS=abc", "'abc' is not a value; a string needs quotation marks inside the shell's"),
        ("MASKS=false", "'false' is not a value"),
        ("Experiment.optimizer=AdamW", "'AdamW' is not a value"),
        ("train/Input.augment=[flip]", "a class or function needs an @"),
        ("BASE_LEARNING_RATE=nan", "'nan' is not a value"),
        ("STEPS=(5", "--gin_param: a bracket or a quotation mark is not closed"),
        ("STEPS=" + "9" * 10000, "is not a value"),
        ("STEPS=0x" + "f" * 10000, "STEPS = a value too long to print"),
        ("train/Input.augment=[@flip()]", "missing 1 required positional argument: 'sample'"),
    ],
)
def test_a_mistake_in_a_binding_is_one_line(param, named):
    with pytest.raises(UserError) as error:
        config.load([PAPER], [param])
    message = str(error.value)
    assert named in message and "<class" not in message and " at 0x" not in message and len(message) < 600
    assert "\n" not in message


@pytest.mark.parametrize(
    "text, message",
    [
        (b"STEPS = 3\nSTEPS = abc\n", "{file}, line 2: 'abc' is not a value"),
        (b"STEPS = (3\n", "{file}: a bracket or a quotation mark is not closed"),
        (b"STEPS = 3\nNonsense.value = 3\n", "{file}, line 2: No configurable matching 'Nonsense'"),
        (b"STEPS = 3\nHTC.num_stagez = 3\n", "{file}, line 2: Configurable 'HTC' doesn't have a parameter named"),
        (b"# caf\xe9\n", "{file}: 'utf-8' codec can't decode"),
    ],
)
def test_a_mistake_in_a_file_names_the_file_and_the_line(tmp_path, text, message):
    path = tmp_path / "mine.gin"
    path.write_bytes(text)
    with pytest.raises(UserError) as refused:
        config.load([PAPER, str(path)], [])
    assert str(refused.value).startswith(message.format(file=path)) and "\n" not in str(refused.value)
