"""The network: images to outputs, outputs to detections. Read this file first.

Hybrid Task Cascade, arXiv:1901.07518: stages refine boxes one after the other; each stage's mask branch works on the
boxes that its box branch has just refined (interleaved), and receives the features of the mask branch before it (mask
information flow); a semantic branch adds context to every RoI.
"""

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.fpn import FPN
from htc_tf.models.mask_head import MaskHead, run_trunks
from htc_tf.models.semantic_head import SemanticHead
from htc_tf.models.targets import RoISampler
from htc_tf.ops import boxes as box_ops
from htc_tf.ops.masks import select_class
from htc_tf.ops.valid_rows import map_valid_rows
from htc_tf.ranges import FLAG, Each, check_ranges, number, whole
from htc_tf.structures import Outputs, RoIs, StageOutput

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
MEAN, STD = Each(number(-255, 255), 3), Each(number(above=0, most=255), 3)


@gin.register
@check_ranges(
    iou_threshold=number(above=0, most=1),
    target_stds=Each(number(above=0, most=1000), 4),
)
class Stage(tf.keras.layers.Layer):
    """One stage of the cascade: its heads and its numbers."""

    def __init__(self, box_head, mask_head=None, iou_threshold=0.5, target_stds=(0.1, 0.1, 0.2, 0.2), name="stage"):
        """
        Args:
            box_head, mask_head: a BoxHead; a MaskHead, or None for boxes only.
            iou_threshold: a RoI is positive from here, negative below.
            stds: units of the deltas (y, x, height, width).
        """
        super().__init__(name=name)
        self.box_head, self.mask_head = box_head, mask_head
        self.iou_threshold, self.target_stds = iou_threshold, tuple(target_stds)


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
class HTC(tf.keras.layers.Layer):
    """images [B, H, W, 3] -> Outputs -> Detections; H and W are static multiples of 32.

    A layer and no keras.Model, which would make counters at once, and so start TensorFlow's devices before threads,
    logical devices and workers are set.
    """

    def __init__(
        self,
        backbone,
        neck,
        rpn,
        roi_pooler,
        stages,
        postprocess,
        semantic_head=None,
        roi_sampler=None,
        num_stages=3,
        masks=True,
        interleaved=True,
        mask_info_flow=True,
        semantic=True,
        average_masks=True,
        drop_refined_truth=True,
        drop_empty=False,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        test_time=None,
        xla=False,
        name="htc",
    ):
        """
        Args:
            backbone: images -> {2: C2 ... 5: C5}.
            neck: -> {2: P2 ... 6: P6}.
            rpn, roi_pooler, postprocess: RPN, RoIAlign, Postprocess.
            stages: Stages, at least `num_stages`.
            semantic_head: a SemanticHead, or None for none.
            roi_sampler: a RoISampler; the paper's by default.
            num_stages: how many of the stages there are: 1 is Mask R-CNN, 3 the paper's cascade.
            masks: whether there are mask branches.
            interleaved: whether a stage's masks are learnt on the boxes that the stage has refined, or, as in Cascade
                Mask R-CNN, on those that it started from.
            mask_info_flow: whether each mask head receives the features of the one before.
            semantic: whether the semantic branch takes part.
            average_masks: whether a detection's mask is the mean over the stages (the paper, section 4.1) or the last
                stage's alone (mmdetection 3, https://github.com/open-mmlab/mmdetection/issues/10210).
            drop_refined_truth: in training, whether the refined truth boxes end with their stage, since every sampling
                adds the truth afresh (mmdetection), or go on as proposals (Paddle).
            drop_empty: whether a box that was refined to nothing ends with its stage (Paddle), or goes on, its features
                zero (mmdetection).
            pixel_mean, pixel_std: of RGB, in 0 ... 255.
            test_time: a MultiView, which `infer` then detects with, or None for a single pass.
            xla: whether the model will be compiled by XLA.
        """
        super().__init__(name=name, autocast=False)  # pixels stay as they are under mixed precision
        if not 1 <= num_stages <= len(stages):
            raise UserError(f"HTC.num_stages = {num_stages!r}, but HTC.stages has {len(stages)}; choose from 1 to that")
        if masks and any(stage.mask_head is None for stage in stages[:num_stages]):
            raise UserError("HTC.masks = True, but a stage has no Stage.mask_head; bind one, or set HTC.masks = False")
        self.backbone, self.neck, self.rpn = backbone, neck, rpn
        self.roi_pooler, self.stages, self.postprocess = roi_pooler, list(stages[:num_stages]), postprocess
        self.semantic_head = semantic_head if semantic else None
        self.roi_sampler = roi_sampler or RoISampler()
        self.masks, self.interleaved, self.mask_info_flow = masks, interleaved, mask_info_flow
        self._check_channels()
        self.average_masks, self.drop_refined_truth, self.drop_empty = average_masks, drop_refined_truth, drop_empty
        self.pixel_mean, self.pixel_std = tuple(pixel_mean), tuple(pixel_std)
        self.test_time, self.xla = test_time, xla

    def _check_channels(self):
        """The semantic embedding and the trunks that mask heads hand on are added to features of the neck."""
        if not isinstance(self.neck, FPN):
            return
        channels = self.neck.outputs["2"].convolution.filters
        added = [] if self.semantic_head is None else [(self.semantic_head, "embed")]
        if self.masks and self.mask_info_flow:
            added += [(stage.mask_head, "receive") for stage in self.stages[1:]]
        for head, name in added:
            theirs = getattr(head, name).convolution.filters if isinstance(head, (MaskHead, SemanticHead)) else channels
            if theirs != channels:
                kind = type(head).__name__
                raise UserError(f"{kind}.channels = {theirs}, but FPN.channels = {channels}: give both the same")

    def call(self, images, sizes, truth=None, seed=None):
        """The forward pass: pyramid, proposals, semantic branch, then stage after stage.

        Args:
            images: [B, H, W, 3] uint8 RGB (or float32 of the same range), padded at the bottom and the right.
            sizes: [B, 2] float32, the height and width without padding.
            truth: Truth, in training: RoIs are then sampled, and the stages' mask heads run on the positives.
            seed: [2] int32, in training: decides all of the samplers' choices.
        Returns:
            Outputs.
        """
        training = truth is not None
        pyramid = self.extract_pyramid(images, sizes, training)
        rpn = self.rpn(pyramid, sizes, training)
        # The RPN and the semantic branch run in turn, so that their temporary buffers are not in memory together.
        with tf.control_dependencies([rpn.proposals.boxes]):
            semantic = None if self.semantic_head is None else self.semantic_head(pyramid, training=training)
            features = self.roi_pooler.prepare(pyramid, None if semantic is None else semantic.embedding)
        boxes, valid = rpn.proposals.boxes, rpn.proposals.valid
        stages = []
        for index, stage in enumerate(self.stages):
            rois = self.sample_rois(boxes, valid, truth, stage, seed, branch=2 * index)
            output = self.box_branch(stage, features, rois, sizes, truth)
            boxes, valid = output.boxes, self.valid_for_next_stage(output)
            if training and self.masks:
                output = self.mask_branch(index, features, output, valid, truth, seed)
            stages.append(output)
        return Outputs(pyramid, rpn, tuple(stages), valid, features, semantic)

    def detect(self, outputs):
        """Outputs of a pass without truth -> Detections: NMS, then the mask heads on what is left."""
        detections = self.postprocess(outputs.stages, outputs.valid)
        if not self.masks:
            return detections
        return self.add_masks(detections, self.stage_masks(outputs.features, detections))

    def infer(self, images, sizes):
        """images and sizes as of `call` -> Detections, of one pass or, with `test_time`, of several views."""
        if self.test_time is not None:
            return self.test_time(self, images, sizes)
        return self.detect(self(images, sizes))

    def extract_pyramid(self, images, sizes, training=False):
        """images and sizes as of `call` -> {level: [B, H / 2^level, W / 2^level, C]}, P2 ... P6."""
        return self.neck(self.backbone(self.normalize(images, sizes), training=training), training=training)

    def normalize(self, images, sizes):
        """Mean and deviation of the pixels; the padding is zero afterwards, as the public weights have it."""
        images = (tf.cast(images, tf.float32) - tf.constant(self.pixel_mean)) / tf.constant(self.pixel_std)
        height, width = images.shape[1:3]
        rows = tf.range(height, dtype=tf.float32) < sizes[:, :1]
        columns = tf.range(width, dtype=tf.float32) < sizes[:, 1:]
        inside = rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :]
        return tf.where(inside[..., tf.newaxis], images, 0.0)

    def sample_rois(self, boxes, valid, truth, stage, seed, branch):
        """Without truth all boxes are RoIs; with it they are matched and sampled at the stage's threshold."""
        if truth is None:
            return RoIs(boxes, valid)
        seed = tf.random.experimental.stateless_fold_in(seed, branch)
        return self.roi_sampler(boxes, valid, truth, stage.iou_threshold, seed)

    def box_branch(self, stage, features, rois, sizes, truth=None):
        """Classifies and refines the RoIs of a stage. No gradient flows into boxes."""
        logits, deltas = stage.box_head(self.roi_pooler.pool_boxes(features, rois))
        count = rois.boxes.shape[1]
        logits = tf.reshape(logits, [-1, count, logits.shape[-1]])
        deltas = tf.reshape(deltas, [-1, count, *deltas.shape[1:]])
        if deltas.shape.rank == 3:
            boxes = box_ops.decode(tf.stop_gradient(deltas), rois.boxes, stage.target_stds, sizes)
            return StageOutput(rois, stage.target_stds, logits, deltas, boxes)
        class_boxes = box_ops.decode(tf.stop_gradient(deltas), rois.boxes[:, :, tf.newaxis], stage.target_stds, sizes)
        # A positive goes on as its object's class, anything else as the class that it looks most like (mmdetection).
        classes = tf.argmax(logits[..., :-1], axis=-1, output_type=tf.int32)
        if truth is not None:
            classes = tf.where(rois.positive, tf.gather(truth.classes, rois.matches, batch_dims=1), classes)
        boxes = tf.gather(class_boxes, classes, batch_dims=2)
        return StageOutput(rois, stage.target_stds, logits, deltas, boxes, class_boxes=class_boxes)

    def valid_for_next_stage(self, output):
        """[B, N] bool: the boxes of a StageOutput that its mask branch and the next stage may use."""
        valid = output.rois.valid
        if self.drop_refined_truth and output.rois.is_truth is not None:
            valid &= ~output.rois.is_truth
        if self.drop_empty:
            valid &= box_ops.exceeds(output.boxes, 0.0)
        return valid

    def mask_branch(self, index, features, output, valid, truth, seed):
        """Adds the mask logits of stage `index` on its positives: sampled anew among the boxes just refined, or not."""
        rois = output.rois
        if self.interleaved:
            rois = self.sample_rois(output.boxes, valid, truth, self.stages[index], seed, branch=2 * index + 1)
        rois = self.roi_sampler.positives(rois)
        first = 0 if self.mask_info_flow else index
        heads = [stage.mask_head for stage in self.stages[first : index + 1]]

        def predict(pooled):
            return heads[-1](run_trunks(heads, pooled, self.mask_info_flow, training=True)[-1])

        pooled = self.roi_pooler.pool_masks(features, rois)
        return output._replace(mask_rois=rois, mask_logits=map_valid_rows(predict, [pooled], rois.valid, self.xla))

    def stage_masks(self, features, detections):
        """[B, D, S, 28, 28]: the probability that each stage's mask head gives the detection's class."""
        rois = RoIs(detections.boxes, detections.valid)
        heads = [stage.mask_head for stage in self.stages]

        def predict(pooled, classes):
            trunks = run_trunks(heads, pooled, self.mask_info_flow)
            masks = [select_class(head(trunk), classes) for head, trunk in zip(heads, trunks, strict=True)]
            return tf.sigmoid(tf.stack(masks, axis=1))

        rows = [self.roi_pooler.pool_masks(features, rois), tf.reshape(detections.classes, [-1])]
        with tf.name_scope(self.name):  # where variables belong that `call` has not created
            return map_valid_rows(predict, rows, detections.valid, self.xla)

    def add_masks(self, detections, stage_masks):
        """Detections with `stage_masks` and, in `masks`, their mean or the last stage's."""
        masks = tf.unstack(stage_masks, axis=2)[0 if self.average_masks else -1 :]
        return detections._replace(masks=tf.add_n(masks) / len(masks), stage_masks=stage_masks)
