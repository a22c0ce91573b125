"""Images, annotations, detections and weights to work on, made up once for all."""

import json
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import maskrcnn_resnet50_fpn

from mmdet.converters.torchvision import OUR_EPS, Source, convert
from mmdet.datasets.coco_classes import COCO_CLASSES

#: of COCO's val2017: images, objects an image, detections an image
VAL2017 = 5000, 7.2, 50
SIDES = 480, 640


def photograph(path, generator):
    """Write a JPEG that takes as long to decode as a photograph: noise of several scales."""
    image = np.zeros((*SIDES, 3))
    for step in (4, 16, 64):
        small = generator.normal(0, 40, (SIDES[0] // step + 1, SIDES[1] // step + 1, 3))
        image += cv2.resize(small, SIDES[::-1], interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), np.clip(image + 120, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])


def polygon(box, generator, points=24):
    """A star around a box's centre, x1, y1, x2, y2, ..."""
    x, y, width, height = box
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    reach = generator.uniform(0.6, 1, points) / 2
    return np.stack([x + width * (0.5 + reach * np.cos(angle)), y + height * (0.5 + reach * np.sin(angle))], 1).ravel()


def boxes_of(number, generator):
    """(number, 4) x, y, width, height: many small ones, few large ones, as in COCO."""
    size = np.exp(generator.normal(np.log(60), 0.9, (number, 2))).clip(4, np.array(SIDES[::-1]) - 1)
    return np.concatenate([generator.uniform(0, 1, (number, 2)) * (np.array(SIDES[::-1]) - size), size], 1)


def annotations(path, images, names, generator, per_image=7.2):
    """Write an annotation file of so many images with COCO's 80 classes; returns its contents."""
    objects = []
    for image in range(images):
        for box in boxes_of(generator.poisson(per_image), generator):
            objects.append(
                dict(
                    id=len(objects) + 1,
                    image_id=image + 1,
                    category_id=int(generator.integers(1, 81)),
                    bbox=box.tolist(),
                    area=float(box[2] * box[3] * 0.6),
                    iscrowd=0,
                    segmentation=[polygon(box, generator).tolist()],
                )
            )
    data = dict(
        images=[dict(id=i + 1, file_name=name, height=SIDES[0], width=SIDES[1]) for i, name in enumerate(names)],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(COCO_CLASSES)],
        annotations=objects,
    )
    path.write_text(json.dumps(data))
    return data


def pictures(folder: Path, number: int) -> list[str]:
    """Write so many photographs and their annotations, ``train.json``; returns the images' paths."""
    generator = np.random.default_rng(0)
    names = [f'{i:03}.jpg' for i in range(number)]
    for name in names:
        photograph(folder / name, generator)
    annotations(folder / 'train.json', number, names, generator)
    return [str(folder / name) for name in names]


def detections(folder: Path, images: int, per_image: int = VAL2017[2]) -> None:
    """Write annotations, ``val.json``, and detections: as a detector gives them (``found.pth``), and in COCO's form.

    Half of the detections lie on objects, more or less; the others anywhere.
    """
    generator = np.random.default_rng(0)
    names = [f'{i:06}.jpg' for i in range(images)]
    truth = annotations(folder / 'val.json', images, names, generator)
    own: dict[int, list] = {}
    for one in truth['annotations']:
        own.setdefault(one['image_id'], []).append(one)
    samples, results = [], []
    for image in range(1, images + 1):
        boxes = boxes_of(per_image, generator)
        labels = generator.integers(1, 81, per_image)
        for i in range(per_image // 2 if image in own else 0):
            one = own[image][generator.integers(len(own[image]))]
            box = np.array(one['bbox'])
            boxes[i] = box + generator.normal(0, 0.12, 4) * np.tile(box[2:], 2)
            labels[i] = one['category_id'] if generator.random() < 0.8 else labels[i]
        boxes[:, 2:] = boxes[:, 2:].clip(2)
        boxes = boxes.astype(np.float32)
        scores = generator.random(per_image).astype(np.float32)
        order = np.argsort(-scores)
        boxes, labels, scores = boxes[order], labels[order], scores[order]
        drawn = [[polygon(box, generator).tolist()] for box in boxes.astype(float)]
        masks = [coco_mask.merge(coco_mask.frPyObjects(one, *SIDES)) for one in drawn]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        found = dict(
            bboxes=torch.from_numpy(corners),
            scores=torch.from_numpy(scores),
            labels=torch.from_numpy(labels - 1),
            masks=masks,
        )
        samples.append(dict(img_id=image, ori_shape=SIDES, pred_instances=found))
        exact = corners.astype(float)
        exact[:, 2:] -= exact[:, :2]
        for box, score, label, mask in zip(exact.tolist(), scores.tolist(), labels.tolist(), masks):
            text = dict(mask, counts=mask['counts'].decode())
            results.append(dict(image_id=image, category_id=label, bbox=box, score=score, segmentation=text))
    torch.save(samples, folder / 'found.pth')
    (folder / 'found.json').write_text(json.dumps(results))


def weights(folder: Path, image: str, candidates: int = 300) -> None:
    """Write random weights of Mask R-CNN R-50-FPN: ``vision.pth`` with torchvision's names, ``toolbox.pth`` with ours.

    Args:
        image: in which so many pairs of a region and a class get a score above 0.05, as of a trained detector.
    """
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    for name, value in model.state_dict().items():
        if 'bn3.weight' in name:
            value.zero_()  # a block starts as its shortcut, or numbers grow from stage to stage
    seen: list = []
    predictor = model.roi_heads.box_predictor
    hook = predictor.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    with torch.no_grad():
        model([decode_image(image, mode=ImageReadMode.RGB) / 255])
    hook.remove()
    spread = (seen[0] - seen[0].mean(0)).std().item()
    logits = (seen[0] - seen[0].mean(0)) * (2 / spread)
    low, high = -10.0, 30.0
    for _ in range(40):  # of the background's logit: by bisection
        middle = (low + high) / 2
        number = ((logits + middle * torch.eye(1, logits.shape[1])).softmax(1)[:, 1:] > 0.05).sum()
        low, high = (middle, high) if number > candidates else (low, middle)
    with torch.no_grad():
        predictor.cls_score.bias.copy_((predictor.cls_score.bias - seen[0].mean(0)) * (2 / spread))
        predictor.cls_score.bias[0] += middle
        predictor.cls_score.weight.mul_(2 / spread)
    torch.save(model.state_dict(), folder / 'vision.pth')
    converted = convert(Source('made up', model.state_dict(), False), False, OUR_EPS)
    torch.save(
        dict(meta=dict(dataset_meta=dict(classes=COCO_CLASSES)), state_dict=converted.state), folder / 'toolbox.pth'
    )
