"""Between images and levels of a batch, by the names of mmdetection 3.x."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet.structures.bbox import get_box_type


def multi_apply(func: Callable[..., tuple], *args, **kwargs) -> tuple[list, ...]:
    """Call a function once for each place of some sequences, and put its first results together, its second, ....

    Args:
        func: returns a tuple.
        args: sequences of one length; the i-th call takes the i-th of each.
        kwargs: of every call.

    Returns:
        A list for each number of the tuple.

    Example:
        >>> multi_apply(divmod, [7, 9], [2, 4])
        ([3, 2], [1, 1])
    """
    return tuple(map(list, zip(*map(partial(func, **kwargs), *args))))


def unpack_gt_instances(batch_data_samples: Sequence) -> tuple[list, list, list[dict]]:
    """Return of DetDataSamples the ``gt_instances``, the ``ignored_instances`` (None where there are none) and the
    metainfo, a list each."""
    return (
        [sample.gt_instances for sample in batch_data_samples],
        [sample.get('ignored_instances') for sample in batch_data_samples],
        [sample.metainfo for sample in batch_data_samples],
    )


def images_to_levels(target: Sequence[Tensor], num_levels: Sequence[int]) -> list[Tensor]:
    """Return tensors of images, over all levels, as tensors of levels, over all images.

    Args:
        target: of each of N images (A, ...).
        num_levels: the numbers A_l of each level, which add up to A.

    Returns:
        Of each level (N, A_l, ...).
    """
    return list(torch.stack(list(target)).split(list(num_levels), 1))


def select_single_mlvl(mlvl_tensors: Sequence[Tensor], batch_id: int, detach: bool = True) -> list[Tensor]:
    """Return one image's part of each level's tensor (N, ...), by default without gradient."""
    own = [level[batch_id] for level in mlvl_tensors]
    return [level.detach() for level in own] if detach else own


def empty_instances(
    batch_img_metas: Sequence[dict],
    device: torch.device | str,
    task_type: str,
    instance_results: list[InstanceData] | None = None,
    mask_thr_binary: float = 0,
    box_type: str = 'hbox',
    use_box_type: bool = False,
    num_classes: int = 80,
    score_per_cls: bool = False,
) -> list[InstanceData]:
    """Make the detections of images in which there is no region at all.

    Args:
        batch_img_metas: of each image, for masks with ``ori_shape`` (height, width).
        task_type: 'bbox' or 'mask'.
        instance_results: gets the fields, in place; by default new ones do.
        mask_thr_binary: below 0 masks are uint8 instead of bool, as of :meth:`.FCNMaskHead.predict_by_feat`.
        box_type, use_box_type: boxes as objects of this type instead of tensors.
        num_classes, score_per_cls: scores (0, num_classes + 1) instead of (0,).

    Returns:
        For each image ``bboxes`` (0, 4), ``scores`` and ``labels`` (0,), or ``masks`` (0, height, width).
    """
    assert task_type in ('bbox', 'mask'), f"empty_instances: task_type must be 'bbox' or 'mask', got {task_type!r}"
    results = [InstanceData() for _ in batch_img_metas] if instance_results is None else instance_results
    assert len(results) == len(batch_img_metas), f'{len(results)} results of {len(batch_img_metas)} images'
    for own, meta in zip(results, batch_img_metas):
        if task_type == 'mask':
            kind = torch.bool if mask_thr_binary >= 0 else torch.uint8
            own.masks = torch.zeros(0, *meta['ori_shape'][:2], dtype=kind, device=device)
            continue
        boxes = torch.zeros(0, get_box_type(box_type)[1].box_dim, device=device)
        own.bboxes = get_box_type(box_type)[1](boxes, clone=False) if use_box_type else boxes
        own.scores = torch.zeros((0, num_classes + 1) if score_per_cls else 0, device=device)
        own.labels = torch.zeros(0, dtype=torch.long, device=device)
    return results


def rename_loss_dict(prefix: str, losses: dict) -> dict:
    """Return losses with ``prefix`` before their names."""
    return {f'{prefix}{name}': value for name, value in losses.items()}


def reweight_loss_dict(losses: dict, weight: float) -> dict:
    """Multiply what has 'loss' in its name, tensors or lists of them, by ``weight``, in place; return the dict."""
    for name, value in losses.items():
        if 'loss' in name:
            losses[name] = [one * weight for one in value] if isinstance(value, (list, tuple)) else value * weight
    return losses
