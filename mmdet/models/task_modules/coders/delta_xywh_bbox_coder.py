"""Boxes as offsets from anchors or proposals."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmdet.mmdetection.arguments import accepts
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import BaseBoxes, clip_boxes, get_box_tensor


class BaseBBoxCoder(ABC):
    """Turns boxes into what a network can predict, and back; the base of coders of one's own.

    Args:
        use_box_type: an attribute that nothing here reads.
    """

    #: numbers of a box that is encoded
    encode_size = 4

    def __init__(self, use_box_type: bool = False, **kwargs) -> None:
        self.use_box_type = use_box_type

    @abstractmethod
    def encode(self, bboxes: Tensor | BaseBoxes, gt_bboxes: Tensor | BaseBoxes) -> Tensor:
        """Encode boxes (N, 4), seen from priors (N, 4), as (N, encode_size)."""

    @abstractmethod
    def decode(self, bboxes: Tensor | BaseBoxes, bboxes_pred: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Decode predictions (N, encode_size), seen from priors (N, 4), to boxes (N, 4); the third argument is the
        image's shape, in which they end."""


@TASK_UTILS.register_module()
@accepts(use_box_type=False)
class DeltaXYWHBBoxCoder(BaseBBoxCoder):
    """Encodes boxes as offsets from priors, and decodes them (Girshick et al., R-CNN, 2014, app. C).

    With centres (x, y) and sizes (w, h), of the prior with index a, the deltas are (x - x_a) / w_a, (y - y_a) / h_a,
    ln(w / w_a) and ln(h / h_a), less ``target_means``, over ``target_stds``.

    Args:
        target_means, target_stds: the four deltas are normalized with these.
        clip_border: move decoded corners into the image.
        add_ctr_clamp, ctr_clamp: bound a centre's shift by so many pixels; sizes are then bounded from above only.

    Example:
        >>> import torch
        >>> coder = DeltaXYWHBBoxCoder()
        >>> coder.encode(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[5.0, 0.0, 15.0, 10.0]]))
        tensor([[0.5000, 0.0000, 0.0000, 0.0000]])
    """

    def __init__(
        self,
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        clip_border: bool = True,
        add_ctr_clamp: bool = False,
        ctr_clamp: int = 32,
    ) -> None:
        self.means = tuple(target_means)
        self.stds = tuple(target_stds)
        self.clip_border = clip_border
        self.add_ctr_clamp = add_ctr_clamp
        self.ctr_clamp = ctr_clamp

    def _scale(self, like: Tensor) -> Tensor:
        """Means and deviations, (2, 4), copied without waiting for a GPU."""
        return torch.tensor([self.means, self.stds], dtype=like.dtype).to(like.device, non_blocking=True)

    def encode(self, bboxes: Tensor | BaseBoxes, gt_bboxes: Tensor | BaseBoxes) -> Tensor:
        """Compute the deltas that lead from priors to boxes.

        Args:
            bboxes: priors (N, 4) of positive size.
            gt_bboxes: boxes (N, 4) in the same unit.

        Returns:
            (N, 4).

        Raises:
            AssertionError: boxes of another shape.
        """
        bboxes, gt_bboxes = get_box_tensor(bboxes), get_box_tensor(gt_bboxes)
        assert bboxes.shape == gt_bboxes.shape and bboxes.shape[1:] == (4,), (
            f'encode: priors and boxes must be (N, 4), got {tuple(bboxes.shape)} and {tuple(gt_bboxes.shape)}'
        )
        size, gt_size = bboxes[:, 2:] - bboxes[:, :2], gt_bboxes[:, 2:] - gt_bboxes[:, :2]
        centre, gt_centre = (bboxes[:, :2] + bboxes[:, 2:]) / 2, (gt_bboxes[:, :2] + gt_bboxes[:, 2:]) / 2
        deltas = torch.cat([(gt_centre - centre) / size, (gt_size / size).log()], 1)
        means, stds = self._scale(deltas)
        return (deltas - means) / stds

    def decode(
        self, bboxes: Tensor | BaseBoxes, pred_bboxes: Tensor, max_shape: Any = None, wh_ratio_clip: float = 16 / 1000
    ) -> Tensor:
        """Compute boxes from priors and deltas.

        Args:
            bboxes: priors (N, 4), or of B images (B, N, 4).
            pred_bboxes: deltas (N, 4 * C), or (B, N, 4 * C).
            max_shape: (height, width) of the image, for ``clip_border``; of B images one for all, or B of them.
            wh_ratio_clip: a size changes at most by this factor or its inverse.

        Returns:
            Of the shape of ``pred_bboxes``, in the unit of the priors.

        Raises:
            AssertionError: shapes that do not go together.
        """
        bboxes = get_box_tensor(bboxes)
        assert bboxes.shape[-1] == 4 and bboxes.shape[:-1] == pred_bboxes.shape[:-1] and bboxes.dim() in (2, 3), (
            'decode: priors must be (N, 4) or (B, N, 4), and deltas (N, 4 * C) or (B, N, 4 * C), got '
            f'{tuple(bboxes.shape)} and {tuple(pred_bboxes.shape)}'
        )
        deltas = pred_bboxes.unflatten(-1, (-1, 4))
        means, stds = self._scale(deltas)
        deltas = deltas * stds + means
        bboxes = bboxes.unsqueeze(-2)
        size = bboxes[..., 2:] - bboxes[..., :2]
        shift = deltas[..., :2] * size
        largest = abs(math.log(wh_ratio_clip))
        growth = deltas[..., 2:]
        if self.add_ctr_clamp:
            shift = shift.clamp(-self.ctr_clamp, self.ctr_clamp)
            growth = growth.clamp(max=largest)
        else:
            growth = growth.clamp(-largest, largest)
        centre = (bboxes[..., :2] + bboxes[..., 2:]) / 2 + shift
        half = size * growth.exp() / 2
        decoded = torch.cat([centre - half, centre + half], -1)
        if self.clip_border and max_shape is not None:
            shape: Any = max_shape.tolist() if isinstance(max_shape, Tensor) else max_shape
            if isinstance(shape[0], (list, tuple)):
                assert decoded.dim() == 4 and len(shape) == len(decoded), (
                    f'decode: max_shape must be (height, width), or one for each of {len(decoded)} images, got {shape}'
                )
                decoded = torch.stack([clip_boxes(one, size[:2]) for one, size in zip(decoded, shape)])
            else:
                decoded = clip_boxes(decoded, shape[:2])
        return decoded.flatten(-2)
