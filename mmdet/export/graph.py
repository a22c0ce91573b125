"""A two-stage detector as one function of an image, of operations that every format of export has."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import SingleRoIExtractor, StandardRoIHead
from mmdet.models.utils import select_single_mlvl

from .folding import PaddedConv

Size = tuple[Any, Any]  # (height, width): numbers, or symbols of a graph that is being traced


class DetectorGraph(nn.Module):
    """Detects the objects of one image, from pixels as OpenCV reads them, without a branch that depends on the data.

    Normalization and padding are within. The detections are :meth:`.TwoStageDetector.predict`'s, in pixels of the image
    that is given; masks are left as the mask head draws them, on a grid over each box.

    Args:
        model: a :class:`.TwoStageDetector` in evaluation mode; the graph shares its parameters.
        half: backbone, neck and heads, which become float16, compute in it; boxes and scores are float32.

    Raises:
        ValueError: a part that cannot be exported, by its key in the config.

    Shape:
        - Input: (H, W, 3) uint8, in the order blue, green, red.
        - Output: boxes (K, 4) float32, x1, y1, x2, y2; scores (K,) float32, falling; labels (K,) int64; with a mask
          head the probabilities (K, S, S) float32 of the cells that a box is divided into.
    """

    def __init__(self, model: Any, half: bool = False) -> None:
        super().__init__()
        check_exportable(model)
        self.model = model
        self.dtype = torch.float16 if half else torch.float32
        if half:
            for part in (model.backbone, model.neck, model.rpn_head, model.roi_head):
                if part is not None:
                    part.half()

    @property
    def outputs(self) -> list[str]:
        """Return the names of what :meth:`forward` returns."""
        return ['boxes', 'scores', 'labels'] + ['masks'] * self.model.with_mask

    @property
    def least_side(self) -> int:
        """Return the least height and width of an image, in pixels, for which the graph is made."""
        least = max(max(stride) for stride in self.model.rpn_head.prior_generator.strides) + 1
        # torch.export takes the padded side for no more than the side, which such convolutions halve exactly
        exact = any(isinstance(module, PaddedConv) for module in self.model.modules())
        return least + exact * self.model.data_preprocessor.pad_size_divisor

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect the objects of an image, see the class."""
        size = (image.shape[0], image.shape[1])
        maps = self.model.extract_feat(self._input(image, size))
        proposals = self._proposals(maps, size)
        boxes, scores, labels = self._detections(maps, proposals, size)
        if not self.model.with_mask:
            return boxes, scores, labels
        return boxes, scores, labels, self._masks(maps, boxes, labels)

    def _input(self, image: Tensor, size: Size) -> Tensor:
        """The normalized and padded input (1, 3, H', W')."""
        own = self.model.data_preprocessor
        x = image.permute(2, 0, 1)[None].float()
        if own._channel_conversion:
            x = x.flip(1)
        if own._enable_normalize:
            x = (x - own.mean) / own.std
        divisor = own.pad_size_divisor
        below, right = ((divisor - side % divisor) % divisor for side in size)
        return F.pad(x, (0, right, 0, below), value=own.pad_value).to(self.dtype)

    def _proposals(self, maps: Sequence[Tensor], size: Size) -> Tensor:
        """Boxes (K, 4), at most ``max_per_img``, by falling score."""
        head = self.model.rpn_head
        cfg = head.test_cfg
        scores, deltas = (select_single_mlvl(levels, 0) for levels in head(maps))
        sizes = [level.shape[-2:] for level in scores]
        priors = head.prior_generator.grid_priors(sizes, device=scores[0].device)
        most, smallest = cfg.get('nms_pre', -1), cfg.get('min_bbox_size', -1)
        found = []
        for score, delta, prior in zip(scores, deltas, priors):
            score = score.permute(1, 2, 0).flatten().float()
            delta = delta.permute(1, 2, 0).reshape(-1, 4).float()
            if not cfg.get('rank_logits', False):
                score = score.sigmoid()
            if most > 0:
                # A level may have fewer anchors. Places without one fill it up, and go below.
                score, best = F.pad(score, (0, most), value=-torch.inf).topk(most)
                best = best.where(score > -torch.inf, 0)
                delta, prior = delta[best], prior[best]
            boxes = head.bbox_coder.decode(prior, delta, size)
            kept = score > -torch.inf
            if smallest >= 0:
                kept = kept & (boxes[:, 2:] - boxes[:, :2] > smallest).all(1)
            at = kept.nonzero().flatten()
            boxes, score = boxes[at], score[at]
            best = suppress(boxes, score, cfg['nms'])  # boxes of other levels suppress none
            found.append((boxes[best], score[best]))
        all_boxes, all_scores = (torch.cat(parts) for parts in zip(*found))
        return all_boxes[all_scores.argsort(descending=True)][: cfg['max_per_img']]

    def _features(self, extractor: SingleRoIExtractor, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """The features of regions (K, 4), as the extractor's, whatever number of them belongs to a level; and one more.

        On the other levels a region is a point, which costs nothing. The last of K + 1 is a point on all levels: some
        layers of runtimes refuse no input.
        """
        rois = F.pad(boxes, (1, 0, 0, 1))  # of image 0
        layers = list(zip(extractor.roi_layers, maps))
        levels = extractor.map_roi_levels(rois, len(layers))
        found: Any = 0
        for level, (layer, x) in enumerate(layers):
            own = (levels == level).to(rois)[:, None]
            found = found + layer(x, rois * own) * own[:, :, None, None].to(x)
        shared = self.model.roi_head.shared_head
        return found if shared is None else shared(found)

    def _detections(self, maps: Sequence[Tensor], proposals: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        head = self.model.roi_head
        cfg = head.test_cfg
        found = head.bbox_head(self._features(head.bbox_roi_extractor, maps, proposals))
        classes, deltas = (None if part is None else part[:-1] for part in found)
        boxes, scores = head.bbox_head.decode(proposals, classes, deltas, size)
        boxes, scores = boxes.unflatten(1, (-1, 4)), scores[:, :-1]
        kept = scores > cfg['score_thr']
        smallest = cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            kept = kept & (boxes[..., 2:] - boxes[..., :2] >= smallest).all(-1)
        at = kept.flatten().nonzero().flatten()
        rows, labels = at // scores.shape[1], at % scores.shape[1]
        boxes = boxes.flatten(0, 1)[at if boxes.shape[1] > 1 else rows]
        scores = scores.flatten()[at]
        best = suppress(self._apart(boxes, labels, size), scores, cfg['nms'])
        if cfg['max_per_img'] > 0:
            best = best[: cfg['max_per_img']]
        return boxes[best], scores[best], labels[best]

    def _apart(self, boxes: Tensor, labels: Tensor, size: Size) -> Tensor:
        """Boxes moved so that those of different classes do not overlap.

        On a square around the origin, not in a row: the smaller the numbers, the less is rounded off.
        """
        head = self.model.roi_head
        if head.test_cfg['nms'].get('class_agnostic', False):
            return boxes
        side = -int(-(head.bbox_head.num_classes**0.5) // 1)
        height, width = (boxes.new_ones(1) * (length + 1) for length in size)
        x, y = (labels % side - side // 2) * width, (labels // side - side // 2) * height
        return boxes + torch.stack([x, y, x, y], 1)

    def _masks(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        head = self.model.roi_head
        logits = head.mask_head(self._features(head.mask_roi_extractor, maps, boxes))[:-1]
        if not head.mask_head.class_agnostic:
            logits = logits.gather(1, labels[:, None, None, None].expand(-1, 1, *logits.shape[-2:]))
        return logits[:, 0].float().sigmoid()


def suppress(boxes: Tensor, scores: Tensor, cfg: dict) -> Tensor:
    """The indices (K,) of the boxes (N, 4) that no better one overlaps, by falling score; N may be 0.

    torch.export is told that torchvision's NMS keeps two boxes or more, so there are two more, far away, the last.
    """
    far = boxes.new_tensor([[0, 0, 16, 16], [32, 32, 48, 48]]) - 2**20
    best = nms(torch.cat([boxes, far]), F.pad(scores, (0, 2), value=-1e30), cfg.get('iou_threshold', 0.5))
    return best[:-2]


def check_exportable(model: Any) -> None:
    """Raise ValueError, with its key in the config, for a part that :class:`DetectorGraph` cannot compute."""
    kinds = {
        'model': (model, TwoStageDetector),
        'model.data_preprocessor': (getattr(model, 'data_preprocessor', None), DetDataPreprocessor),
        'model.rpn_head': (getattr(model, 'rpn_head', None), RPNHead),
        'model.roi_head': (getattr(model, 'roi_head', None), StandardRoIHead),
        'model.roi_head.bbox_roi_extractor': (
            getattr(getattr(model, 'roi_head', None), 'bbox_roi_extractor', None),
            SingleRoIExtractor,
        ),
    }
    for key, (part, kind) in kinds.items():
        if not isinstance(part, kind):
            raise ValueError(
                f'{key}: a {type(part).__name__} cannot be exported; what can be is a {kind.__name__} or a class made '
                'from it'
            )
    for key, cfg, known in (
        ('rpn', model.rpn_head.test_cfg, ('type', 'iou_threshold', 'split_thr')),
        ('rcnn', model.roi_head.test_cfg, ('type', 'iou_threshold', 'split_thr', 'class_agnostic')),
    ):
        own = cfg.get('nms') or {}
        if own.get('type') != 'nms' or set(own) - set(known):
            raise ValueError(
                f"model.test_cfg.{key}.nms: only dict(type='nms', iou_threshold=...) can be exported"
                f'{" (with class_agnostic)" * (key == "rcnn")}, got {dict(own)}'
            )
