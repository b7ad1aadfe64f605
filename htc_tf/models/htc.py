"""The Hybrid Task Cascade network (arXiv:1901.07518): images to outputs, outputs to detections. Read this file first.

Each stage's box head refines the boxes of the stage before. Its mask head works on the boxes just refined (interleaved
execution) and receives the features of the previous stage's mask head (mask information flow). A semantic branch adds
context to the features of every RoI.

SCNet (arXiv:2012.10150) is the same network with other parts: one mask head, in the last stage, which also receives
features of its box head, and a context of the whole image that is added to every RoI.
"""

from collections.abc import Sequence

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.branches import StageBranches
from htc_tf.models.drop_path import fold_in
from htc_tf.models.norms import trained_batch_norms
from htc_tf.models.postprocess import Postprocess
from htc_tf.models.roi_pooler import RoIPooler
from htc_tf.models.rpn import RPN
from htc_tf.models.scnet import FeatureRelay, GlobalContextHead
from htc_tf.models.semantic_head import SemanticHead
from htc_tf.models.stage import Stage
from htc_tf.models.targets import RoISampler
from htc_tf.models.test_time_augmentation import TestTimeAugmentation
from htc_tf.models.variable_creation import creating_variables
from htc_tf.ranges import FLAG, Each, check_ranges, number, whole
from htc_tf.structures import Detections, FeatureMaps, GroundTruth, Outputs, RPNOutput

# Mean and standard deviation of ImageNet's RGB values, the ones that torchvision's weights are trained with.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
MEAN, STD = Each(number(-255, 255), 3), Each(number(above=0, maximum=255), 3)


@gin.register
@check_ranges(
    num_stages=whole(1),
    masks=FLAG,
    interleaved=FLAG,
    mask_info_flow=FLAG,
    semantic=FLAG,
    average_masks=FLAG,
    drop_refined_truth=FLAG,
    drop_empty=FLAG,
    pixel_mean=MEAN,
    pixel_std=STD,
    xla=FLAG,
)
class HTC(StageBranches):
    """The detector: backbone, neck, RPN, semantic branch and the cascade of stages.

    It is a layer and not a keras.Model: a keras.Model creates counters in its constructor and so starts TensorFlow's
    devices before threads, logical devices and workers are configured.
    """

    def __init__(
        self,
        backbone: tf.keras.layers.Layer,
        neck: tf.keras.layers.Layer,
        rpn: RPN,
        roi_pooler: RoIPooler,
        stages: Sequence[Stage],
        postprocess: Postprocess,
        semantic_head: SemanticHead | None = None,
        context_head: GlobalContextHead | None = None,
        relay: FeatureRelay | None = None,
        roi_sampler: RoISampler | None = None,
        num_stages: int = 3,
        masks: bool = True,
        interleaved: bool = True,
        mask_info_flow: bool = True,
        semantic: bool = True,
        average_masks: bool = True,
        drop_refined_truth: bool = True,
        drop_empty: bool = False,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
        test_time: TestTimeAugmentation | None = None,
        xla: bool = False,
        name: str = "htc",
    ) -> None:
        """
        Args:
            backbone: Layer from normalized images to {2: C2, ..., 5: C5}.
            neck: FPN, or another layer from these to {2: P2, ..., 6: P6}, with an attribute `channels`.
            rpn: RPN.
            roi_pooler: RoIPooler.
            stages: list of Stage, `num_stages` or more.
            postprocess: Postprocess.
            semantic_head: SemanticHead, or None for no semantic branch.
            context_head: GlobalContextHead, or None.
            relay: FeatureRelay from the last stage's box head to the mask heads, or None.
            roi_sampler: RoISampler; None for the paper's.
            num_stages: int, number of stages in use: 1 is Mask R-CNN, 3 the paper's cascade.
            masks: If True, the stages that have a mask head have mask branches.
            interleaved: If True, a stage's mask head is trained on the boxes that the stage has refined; if False, on
                its input boxes, as in Cascade Mask R-CNN.
            mask_info_flow: If True, each mask head receives the features of the previous one.
            semantic: If True, the semantic branch takes part.
            average_masks: If True, a detection's mask is the mean over the stages (paper, section 4.1); if False, the
                last stage's alone (mmdetection 3, https://github.com/open-mmlab/mmdetection/issues/10210).
            drop_refined_truth: If True, refined ground-truth boxes are dropped after their stage in training, because
                every sampling appends the ground truth again (mmdetection); if False, they stay proposals (Paddle).
            drop_empty: If True, a box that was refined to zero area is dropped after its stage (Paddle); if False, it
                stays and its features are zero (mmdetection).
            pixel_mean, pixel_std: 3 floats each, mean and standard deviation of the RGB values, 0 ... 255.
            test_time: TestTimeAugmentation that `infer` detects with, or None for a single pass.
            xla: If True, the model will be compiled by XLA.
        """
        super().__init__(name=name, autocast=False)  # mixed precision must not round the pixels
        for part, layer in (("backbone", backbone), ("neck", neck), ("rpn", rpn)):
            if not isinstance(layer, tf.keras.layers.Layer):
                raise UserError(f"HTC.{part} = {layer!r:.80}: give a layer, such as @ResNet(), @FPN() or @RPN()")
        if not 1 <= num_stages <= len(stages):
            raise UserError(f"HTC.num_stages = {num_stages!r}, but HTC.stages has {len(stages)}; choose from 1 to that")
        if masks and all(stage.mask_head is None for stage in stages[:num_stages]):
            raise UserError(
                f"HTC.masks = True, but none of {num_stages} stages has a Stage.mask_head: bind one, or turn masks off"
            )
        self.backbone, self.neck, self.rpn = backbone, neck, rpn
        self.roi_pooler, self.stages, self.postprocess = roi_pooler, list(stages[:num_stages]), postprocess
        self.semantic_head = semantic_head if semantic else None
        self.context_head, self.relay = context_head, relay if masks else None
        if self.relay is not None and trained_batch_norms(self.stages[-1].box_head):
            raise UserError(
                "BoxHead.norm and conv_norm must not be 'batch' or 'sync_batch' with a FeatureRelay, which runs "
                "the head once more, on the positives: give another norm, such as 'group', or None"
            )
        self.roi_sampler = roi_sampler or RoISampler()
        self.masks, self.interleaved, self.mask_info_flow = masks, interleaved, mask_info_flow
        self._check_channels()
        self.average_masks, self.drop_refined_truth, self.drop_empty = average_masks, drop_refined_truth, drop_empty
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)
        if hasattr(backbone, "set_pixels"):
            backbone.set_pixels(self.pixel_mean, self.pixel_std)
        self.test_time, self.xla = test_time, xla

    def _check_channels(self):
        """Checks that all features that are added to those of RoIs have as many channels as the neck's."""
        channels = getattr(self.neck, "channels", None)
        added = [self.semantic_head, self.context_head, self.relay]
        added += self.mask_heads[1:] if self.mask_info_flow else []
        for head in added:
            theirs = getattr(head, "channels", channels)
            if channels not in (None, theirs):
                kind, neck = type(head).__name__, type(self.neck).__name__
                raise UserError(f"{kind}.channels = {theirs}, but {neck}.channels = {channels}: give both the same")

    def call(
        self,
        images: tf.Tensor,
        sizes: tf.Tensor,
        truth: GroundTruth | None = None,
        seed: tf.Tensor | None = None,
        validate: bool = False,
    ) -> Outputs:
        """The forward pass: pyramid, proposals, semantic branch, then one stage after the other.

        Args:
            images: [B, H, W, 3] uint8 RGB (or float32 of the same range), padded at the bottom and the right; H and W
                are static multiples of 32.
            sizes: [B, 2] float32, height and width without padding.
            truth: GroundTruth in training: RoIs are sampled, and mask heads run on the positives. None in inference.
            seed: [2] int32, random seed of all samplers in training.
            validate: If True, the ground truth is for the losses of an evaluation: everything is sampled as in
                training, but batch norms use their stored statistics and do not update them, and no path is dropped.
        Returns:
            Outputs.
        """
        training = truth is not None and not validate
        pyramid, *assistants = self.extract_pyramids(images, sizes, training, with_assistant=truth is not None)
        rpn, assistant = self.rpn(pyramid, sizes, truth is not None), None
        if assistants:  # trained on the lead's proposals, as in CBNetV2's code, and own samples
            theirs = self.rpn(assistants[0], sizes, True)._replace(proposals=rpn.proposals)
            assistant = self.run_cascade(assistants[0], theirs, sizes, truth, fold_in(seed, -1), training)
        return self.run_cascade(pyramid, rpn, sizes, truth, seed, training)._replace(assistant=assistant)

    def run_cascade(
        self,
        pyramid: FeatureMaps,
        rpn: RPNOutput,
        sizes: tf.Tensor,
        truth: GroundTruth | None,
        seed: tf.Tensor | None,
        training: bool,
    ) -> Outputs:
        """Returns the Outputs of a pyramid and its RPNOutput; other arguments as in `call`."""
        # The semantic branch starts when the RPN is done: their temporary buffers are never in memory together.
        with tf.control_dependencies([rpn.proposals.boxes]):
            semantic = None if self.semantic_head is None else self.semantic_head(pyramid, training=training)
            context = None if self.context_head is None else self.context_head(pyramid, training=training)
            embeddings = [None if output is None else output.embedding for output in (semantic, context)]
            features = self.roi_pooler.prepare(pyramid, *embeddings)
        boxes, valid = rpn.proposals.boxes, rpn.proposals.valid  # [B, P, 4], [B, P]
        stages = []
        for index, stage in enumerate(self.stages):
            rois = self.sample_rois(boxes, valid, truth, stage, seed, branch=2 * index)  # N of them an image
            output = self.box_branch(stage, features, rois, sizes, truth, training)
            boxes, valid = output.boxes, self.valid_for_next_stage(output)  # [B, N, 4], [B, N]
            if truth is not None and self.masks and stage.mask_head is not None:
                output = self.mask_branch(index, features, output, valid, truth, seed, training)
            stages.append(output)
        return Outputs(pyramid, rpn, tuple(stages), valid, features, semantic, context)

    def detect(self, outputs: Outputs) -> Detections:
        """Returns the Detections of the Outputs of a pass without ground truth: NMS, then masks of the boxes kept."""
        detections = self.postprocess(outputs.stages, outputs.valid)
        if not self.masks:
            return detections
        return self.add_masks(detections, self.stage_masks(outputs.features, detections))

    def infer(self, images: tf.Tensor, sizes: tf.Tensor) -> Detections:
        """Returns Detections of images and sizes as in `call`: of one pass or, with `test_time`, of several views."""
        if self.test_time is not None:
            return self.test_time(self, images, sizes)
        return self.detect(self(images, sizes))

    def build_variables(self, blank: bool = False, side: int = 32) -> None:
        """Creates all variables by a forward pass over an image that is all padding, in which nothing is found.

        Args:
            blank: If True, all variables are zero, for a checkpoint to replace.
            side: int, height and width of the image, a multiple of 32.
        """
        with creating_variables(blank):
            self.infer(tf.zeros([1, side, side, 3], tf.uint8), tf.zeros([1, 2]))

    def extract_pyramids(
        self, images: tf.Tensor, sizes: tf.Tensor, training: bool = False, with_assistant: bool = False
    ) -> list[FeatureMaps]:
        """Returns [{level: [B, H / 2^level, W / 2^level, C]}], P2 ... P6; second, if asked, of the assistant."""
        features = self.backbone(self.normalize(images, sizes), training=training)
        features = features if isinstance(features, tuple) else (features,)
        return [self.neck(part, training=training) for part in (features if with_assistant else features[:1])]

    def normalize(self, images: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """Returns normalized images [B, H, W, 3] float32, zero in the padding, as the public weights expect it."""
        images = (tf.cast(images, tf.float32) - tf.constant(self.pixel_mean)) / tf.constant(self.pixel_std)
        height, width = images.shape[1:3]
        rows = tf.range(height, dtype=tf.float32) < sizes[:, :1]  # [B, H]
        columns = tf.range(width, dtype=tf.float32) < sizes[:, 1:]  # [B, W]
        inside = rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :]  # [B, H, W]
        return tf.where(inside[..., tf.newaxis], images, 0.0)
