"""The box and the mask branch of a stage: the steps that `models.htc` takes for each stage of the cascade."""

import tensorflow as tf

from htc_tf.models.drop_path import fold_in
from htc_tf.models.mask_head import MaskHead, mask_information_flow
from htc_tf.models.roi_pooler import PreparedMaps, RoIPooler
from htc_tf.models.scnet import FeatureRelay
from htc_tf.models.stage import Stage
from htc_tf.models.targets import RoISampler
from htc_tf.ops import boxes as box_ops
from htc_tf.ops.masks import select_class
from htc_tf.ops.valid_rows import map_valid_rows
from htc_tf.structures import Detections, GroundTruth, RoIs, StageOutput


class StageBranches(tf.keras.layers.Layer):
    """The branches of all stages. `HTC` derives from it, sets its attributes and calls its methods in their order."""

    stages: list[Stage]
    roi_pooler: RoIPooler
    roi_sampler: RoISampler
    relay: FeatureRelay | None
    masks: bool
    interleaved: bool
    mask_info_flow: bool
    average_masks: bool
    drop_refined_truth: bool
    drop_empty: bool
    xla: bool

    @property
    def mask_heads(self) -> list[MaskHead]:
        """The mask heads of the stages that have one, from the first stage on."""
        return [stage.mask_head for stage in self.stages if self.masks and stage.mask_head is not None]

    def sample_rois(
        self,
        boxes: tf.Tensor,
        valid: tf.Tensor,
        truth: GroundTruth | None,
        stage: Stage,
        seed: tf.Tensor | None,
        branch: int,
    ) -> RoIs:
        """Returns the RoIs of a stage: all boxes in inference, in training a sample by the stage's IoU threshold."""
        if truth is None:
            return RoIs(boxes, valid)
        seed = fold_in(seed, branch)  # every branch has its own random numbers
        return (stage.roi_sampler or self.roi_sampler)(boxes, valid, truth, stage.iou_threshold, seed)

    def box_branch(
        self,
        stage: Stage,
        features: PreparedMaps,
        rois: RoIs,
        sizes: tf.Tensor,
        truth: GroundTruth | None = None,
        training: bool | None = None,
    ) -> StageOutput:
        """Returns the StageOutput of a stage's box head on RoIs, without masks. No gradient flows into boxes."""
        logits, deltas = stage.box_head(self.roi_pooler.pool_boxes(features, rois), training=training)  # [B * N, ...]
        count = rois.boxes.shape[1]
        logits = tf.reshape(logits, [-1, count, logits.shape[-1]])  # [B, N, K + 1]
        deltas = tf.reshape(deltas, [-1, count, *deltas.shape[1:]])  # [B, N, 4] or [B, N, K, 4]
        if deltas.shape.rank == 3:
            boxes = box_ops.decode(tf.stop_gradient(deltas), rois.boxes, stage.target_stds, sizes)
            return StageOutput(rois, stage.target_stds, logits, deltas, boxes)
        class_boxes = box_ops.decode(tf.stop_gradient(deltas), rois.boxes[:, :, tf.newaxis], stage.target_stds, sizes)
        # The next stage gets one box per RoI: a positive's by its object's class, any other's by the class with the
        # largest logit (mmdetection).
        classes = tf.argmax(logits[..., :-1], axis=-1, output_type=tf.int32)  # [B, N]
        if truth is not None:
            classes = tf.where(rois.positive, tf.gather(truth.classes, rois.matches, batch_dims=1), classes)
        boxes = tf.gather(class_boxes, classes, batch_dims=2)  # [B, N, 4]
        return StageOutput(rois, stage.target_stds, logits, deltas, boxes, class_boxes=class_boxes)

    def valid_for_next_stage(self, output: StageOutput) -> tf.Tensor:
        """Returns [B, N] bool: the boxes of a StageOutput that its mask branch and the next stage may use."""
        valid = output.rois.valid
        if self.drop_refined_truth and output.rois.is_truth is not None:
            valid &= ~output.rois.is_truth
        if self.drop_empty:
            valid &= box_ops.exceeds(output.boxes, 0.0)
        return valid

    def mask_branch(
        self,
        index: int,
        features: PreparedMaps,
        output: StageOutput,
        valid: tf.Tensor,
        truth: GroundTruth,
        seed: tf.Tensor | None,
        training: bool,
    ) -> StageOutput:
        """Returns the StageOutput of stage `index` with the mask logits of its positives.

        Interleaved, the positives are sampled again from the boxes just refined; else they are the box branch's.
        """
        rois = output.rois
        if self.interleaved:
            rois = self.sample_rois(output.boxes, valid, truth, self.stages[index], seed, branch=2 * index + 1)
        rois = (self.stages[index].roi_sampler or self.roi_sampler).positives(rois)  # M of them an image
        # With information flow, the mask heads of all stages so far run on these RoIs, one after the other.
        first = 0 if self.mask_info_flow else index
        heads = [stage.mask_head for stage in self.stages[first : index + 1] if stage.mask_head is not None]

        def predict(pooled):
            return heads[-1](mask_information_flow(heads, pooled, self.mask_info_flow, training)[-1])

        pooled = self.mask_features(features, rois, training)  # [B * M, 14, 14, C]
        logits = map_valid_rows(predict, [pooled], rois.valid, self.xla)  # [B, M, 28, 28, K]
        return output._replace(mask_rois=rois, mask_logits=logits)

    def mask_features(self, features: PreparedMaps, rois: RoIs, training: bool | None = None) -> tf.Tensor:
        """Returns the mask heads' features of RoIs, [B * M, 14, 14, C]: pooled, and relayed from the last box head."""
        pooled = self.roi_pooler.pool_masks(features, rois)
        if self.relay is not None:
            for_boxes = self.roi_pooler.pool_boxes(features, rois)  # [B * M, 7, 7, C]
            hidden = self.stages[-1].box_head.extract_features(for_boxes, training)  # [B * M, F]
            pooled += self.relay(hidden, self.roi_pooler.mask_size)
        return pooled

    def stage_masks(self, features: PreparedMaps, detections: Detections) -> tf.Tensor:
        """Returns [B, D, heads, 28, 28] float32: each mask head's probabilities, of the detection's class."""
        rois, heads = RoIs(detections.boxes, detections.valid), self.mask_heads

        def predict(pooled, classes):
            outputs = mask_information_flow(heads, pooled, self.mask_info_flow)  # of each stage [R, 14, 14, C]
            masks = [select_class(head(output), classes) for head, output in zip(heads, outputs, strict=True)]
            return tf.sigmoid(tf.stack(masks, axis=1))  # [R, heads, 28, 28]

        with tf.name_scope(self.name):  # `call` does not create the mask heads' variables in inference
            # R = B * D rows: features [R, 14, 14, C] and classes [R].
            rows = [self.mask_features(features, rois), tf.reshape(detections.classes, [-1])]
            return map_valid_rows(predict, rows, detections.valid, self.xla)

    def add_masks(self, detections: Detections, stage_masks: tf.Tensor) -> Detections:
        """Returns Detections with `stage_masks` and, in `masks`, their mean over the mask heads or the last head's."""
        masks = tf.unstack(stage_masks, axis=2)[0 if self.average_masks else -1 :]  # each [B, D, 28, 28]
        return detections._replace(masks=tf.add_n(masks) / len(masks), stage_masks=stage_masks)
