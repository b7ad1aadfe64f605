"""Times torchvision's Mask R-CNN R50-FPN and its RoIAlign on the sizes, batches, maps and RoIs of our programs.

usage: peer.py inference|train BATCH float32|bfloat16, or peer.py roi_align. float32 allows TF32, as our programs do;
bfloat16 is autocast.
"""

import contextlib

import common
import numpy as np
import torch
import torchvision
from hlo_parameters import draw
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import MultiScaleRoIAlign

OBJECTS = 8  # per image, in training


def main():
    flags = common.parse(__doc__, "mode", "batch", "precision")
    device = "cpu" if flags.cpu else "cuda"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    if flags.mode == "roi_align":
        cases = roi_align(device)
    else:
        cases = {f"{flags.mode}_b{flags.batch}_{flags.precision}": mask_rcnn(flags, device)}
    batch = int(flags.batch or 1)
    for name, function in cases.items():
        times = common.time_runs(lambda: synchronized(function, device), flags.runs)  # noqa: B023
        peak = None if flags.cpu else round(torch.cuda.max_memory_allocated() / 1e9, 2)
        versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
        common.report(peer=name, **times, images=batch, peak_gb=peak, versions=versions)


def synchronized(function, device):
    function()
    if device == "cuda":
        torch.cuda.synchronize()


def mask_rcnn(flags, device):
    """Returns a function without arguments, a detection or a training step."""
    batch, training = int(flags.batch), flags.mode == "train"
    work = common.read_description(f"{flags.mode}_b{flags.batch}_{flags.precision}")["work"]
    size = work["height"], work["width"]
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=81,
        min_size=min(size),
        max_size=max(size),
        box_score_thresh=0.0,
    ).to(device)
    model.train(training)
    images = [torch.rand(3, *size, device=device) for _ in range(batch)]
    bfloat16 = flags.precision == "bfloat16"

    def autocast():
        return torch.autocast(device, torch.bfloat16) if bfloat16 else contextlib.nullcontext()

    def infer():
        with torch.no_grad(), autocast():
            model(images)

    targets = [make_target(size, device) for _ in range(batch)]
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, 0.9)

    def train():
        with autocast():
            loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return train if training else infer


def make_target(size, device):
    """Returns ground truth of OBJECTS objects, which fill their boxes."""
    height, width = size
    starts = torch.rand(OBJECTS, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([width / 2, height / 2])
    boxes = torch.cat([starts, starts + torch.tensor([width / 4, height / 4])], dim=1)
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    labels = torch.arange(1, OBJECTS + 1)
    return {"boxes": boxes.to(device), "labels": labels.to(device), "masks": masks.to(device)}


def roi_align(device):
    """Returns {name: a function without arguments} of the forward pass, and of forward and backward."""
    about = common.read_description("roi_align")
    *maps, boxes = (draw(number, parameter) for number, parameter in enumerate(about["parameters"]))
    work = about["work"]
    maps = {
        str(level): torch.tensor(np.moveaxis(one, 3, 1), device=device, requires_grad=True)
        for level, one in enumerate(maps)
    }
    boxes = list(torch.tensor(boxes, device=device))
    pooler = MultiScaleRoIAlign(list(maps), output_size=7, sampling_ratio=0)
    sizes = [(work["height"], work["width"])] * len(boxes)

    def forward():
        with torch.no_grad():
            pooler(maps, boxes, sizes)

    def both():
        pooled = pooler(maps, boxes, sizes)
        pooled.backward(pooled.detach())

    return {"roi_align": forward, "roi_align_gradient": both}


if __name__ == "__main__":
    main()
