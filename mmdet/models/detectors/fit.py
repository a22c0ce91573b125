"""Whether the parts of a two-stage detector fit each other: a small image goes through them once they are built."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.utils import _pair

from mmdet.ops.modes import evaluating
from mmdet.words import first_line

from ..backbones.resnet import ResNet

#: pixels of the image's sides: the coarsest map of a pyramid, of stride 128, has one cell
SIDE = 128


def check_fit(detector: Any) -> None:
    """Compare what stands in two places of a model's config, as channels and strides do.

    Only parts of mmdet behind a ResNet are looked at; what others make of an image is unknown.

    Raises:
        ValueError: a part that cannot take what the one before gives, or strides that are not those of the maps, with
            the key and what it has to be.
    """
    backbone, neck, rpn, heads = detector.backbone, detector.neck, detector.rpn_head, detector.roi_head
    if not isinstance(backbone, ResNet) or next(backbone.parameters()).is_meta:
        return
    if not all(map(_ours, (neck, rpn, heads, *heads.children()))):
        return
    with evaluating(detector):
        maps = backbone(next(backbone.parameters()).new_zeros(1, 3, SIDE, SIDE))
        if neck is not None:
            channels = [one.shape[1] for one in maps]
            with _taking('neck', 'backbone', maps, f'in_channels={channels}'):
                maps = neck(maps)
        source = 'backbone' if neck is None else 'neck'
        widths = {one.shape[1] for one in maps}
        with _taking('rpn_head', source, maps, f'in_channels={min(widths)}'):
            rpn(maps)
        strides = [-(-SIDE // one.shape[2]) for one in maps]
        _check_strides('rpn_head.anchor_generator.strides', rpn.prior_generator.strides, strides, source)
        cut = dict(bbox_head=heads.bbox_roi_extractor)
        if heads.mask_head is not None:
            cut['mask_head'] = heads.mask_roi_extractor
        for name, extractor in cut.items():
            key = f'roi_head.{name.removesuffix("head")}roi_extractor'
            used = maps[: extractor.num_inputs]
            _check_strides(f'{key}.featmap_strides', extractor.featmap_strides, strides[: extractor.num_inputs], source)
            if {extractor.out_channels} != widths:
                raise ValueError(f'{key}.out_channels: {extractor.out_channels}, but the {source} gives {min(widths)}')
            features = extractor(used, maps[0].new_tensor([[0.0, 0, 0, SIDE, SIDE]]))
            if heads.shared_head is not None:
                features = heads.shared_head(features)
            size = list(features.shape[2:])
            advice = f'in_channels={features.shape[1]}' + (f', roi_feat_size={size[0]}' if name == 'bbox_head' else '')
            with _taking(f'roi_head.{name}', key, [features], advice):
                out = getattr(heads, name)(features)
            wanted = heads.train_cfg.get('mask_size') if name == 'mask_head' else None
            if wanted is not None and _pair(wanted) != tuple(out.shape[2:]):
                raise ValueError(
                    f'train_cfg.rcnn.mask_size: {wanted}, but the masks of roi_head.mask_head '
                    f'are {out.shape[2]} x {out.shape[3]} (twice the output_size of {key})'
                )


def _ours(module: nn.Module | None) -> bool:
    return module is None or type(module).__module__.startswith(('mmdet.', 'torch.'))


@contextmanager
def _taking(part: str, source: str, given: Any, advice: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        shapes = ', '.join(str(tuple(one.shape)[1:]) for one in given)
        raise ValueError(
            f'{part}: cannot take what {source} gives, {shapes} for an image of {SIDE} x {SIDE} '
            f'({first_line(error)}); set its {advice}'
        ) from None


def _check_strides(key: str, said: Any, found: list[int], source: str) -> None:
    if [_pair(stride) for stride in said] != [_pair(stride) for stride in found]:
        raise ValueError(f'{key}: {list(said)}, but the maps of the {source} have strides of {found} pixels')
