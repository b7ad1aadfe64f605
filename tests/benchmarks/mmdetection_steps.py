"""Steps of mmdetection's HTC R50-FPN, for `tests.benchmarks.mmdetection`: needs mmdetection, and nothing of htc_tf.

usage: mmdetection_steps.py inference|train HEIGHT WIDTH LOAD.npz

LOAD.npz has `boxes` [N, 4] for the RPN to propose, and `truth` [G, 4], the ground truth's; both in x1, y1, x2, y2. The
first line of the output has the versions. Each line of the standard input is answered with the CPU and wall seconds of
a step, and its end with the most memory that the process has held, in bytes.
"""

import json
import resource
import sys
import time
from pathlib import Path

import mmdet
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

CONFIG = Path(mmdet.__file__).parent / ".mim/configs/htc/htc_r50_fpn_1x_coco.py"
CANDIDATES = 2000  # pairs of box and class above the score threshold; an untrained network would have all 80,000


def main():
    mode, height, width, load = sys.argv[1], *map(int, sys.argv[2:4]), np.load(sys.argv[4])
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    torch.manual_seed(0)
    model = build()
    propose(model.rpn_head, torch.tensor(load["boxes"]))
    step = {"inference": inference, "train": training}[mode](model, height, width, torch.tensor(load["truth"]))
    step()
    answer({"mmdetection": mmdet.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()})
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        answer([time.process_time() - cpu, time.perf_counter() - wall])
    answer(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def build():
    """Returns the network of the published configuration with random weights."""
    register_all_modules()
    config = Config.fromfile(str(CONFIG))
    config.model.backbone.init_cfg = None
    model = MODELS.build(config.model)
    model.init_weights()
    return model


def propose(head, boxes):
    """Makes an RPN propose the boxes, after it has computed its own proposals."""

    def replace(found):
        for one in found:
            one.bboxes[: len(boxes)] = boxes[: len(one)]
        return found

    predict, loss_and_predict = head.predict, head.loss_and_predict

    def loss_and_replaced(*arguments, **options):
        losses, found = loss_and_predict(*arguments, **options)
        return losses, replace(found)

    head.predict = lambda *arguments, **options: replace(predict(*arguments, **options))
    head.loss_and_predict = loss_and_replaced


def sample(height, width):
    found = DetDataSample()
    size = height, width
    found.set_metainfo({"img_shape": size, "ori_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0)})
    return found


def inference(model, height, width, _):
    """Returns a function that detects in an image, from its pixels to pasted masks."""
    model.eval()
    head, settings = model.roi_head.bbox_head[-1], model.roi_head.test_cfg
    read_scores = head.predict_by_feat

    def with_candidates(*, cls_scores, **others):
        scores = torch.cat(tuple(cls_scores)).softmax(-1)[:, :-1].flatten()
        others["rcnn_test_cfg"].score_thr = scores.kthvalue(len(scores) - CANDIDATES).values.item()
        head.predict_by_feat = read_scores
        return read_scores(cls_scores=cls_scores, **others)

    head.predict_by_feat = with_candidates  # for the first image, whose scores all have
    image = torch.randint(0, 256, [3, height, width], dtype=torch.uint8)

    def step():
        with torch.no_grad():
            (found,) = model.test_step({"inputs": [image], "data_samples": [sample(height, width)]})
        if len(found.pred_instances) != settings.max_per_img or found.pred_instances.masks.shape[1:] != (height, width):
            raise SystemExit(f"{len(found.pred_instances)} detections")

    return step


def training(model, height, width, truth):
    """Returns a function that makes a step of training on one image."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-6, momentum=0.9, weight_decay=1e-4)
    masks = np.zeros([len(truth), height, width], np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, truth.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    one = sample(height, width)
    labels = torch.arange(len(truth))
    one.gt_instances = InstanceData(bboxes=truth, labels=labels, masks=BitmapMasks(masks, height, width))
    one.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=labels[:0])
    one.gt_sem_seg = PixelData(sem_seg=torch.randint(0, 183, [1, height, width]))
    image = torch.randint(0, 256, [3, height, width], dtype=torch.uint8)

    def step():
        data = model.data_preprocessor({"inputs": [image], "data_samples": [one.clone()]}, True)
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is {loss.item()}")

    return step


if __name__ == "__main__":
    main()
