"""Albumentations' transforms (Buslaev et al., Information 2020) of image, boxes and masks."""

import inspect
from typing import Any

import numpy as np

from mmdet.mmdetection.arguments import ArgumentError
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes, autocast_box_type
from mmdet.structures.mask import BitmapMasks
from mmdet.words import nearest

from .base import DetTransform
from .crop import keep_objects

OBJECTS = dict(gt_masks='masks', gt_bboxes='bboxes')
KEYMAP = dict(img='image', **OBJECTS)


@TRANSFORMS.register_module()
class Albu(DetTransform):
    """Runs transforms of albumentations, which is an extra: ``pip install 'mmdet-cbn[albu]'``.

    Its random numbers come from NumPy's, as all others: a resumed run draws what it would have drawn.

    Args:
        transforms: configs of albumentations' transforms; ``type`` is a class's name, or the class.
        bbox_params: of ``albumentations.BboxParams``, with ``format='pascal_voc'`` and ``label_fields``; with
            ``filter_lost_elements`` objects whose box is gone are left out, their masks too.
        keymap: our key to albumentations'; by default ``img``, ``gt_masks`` and ``gt_bboxes``.
        skip_img_without_anno: where no object is left the transform returns None, and another image is drawn.

    Raises:
        ImportError: albumentations is not installed.
        ValueError: a transform that it does not have.

    Example:
        In a pipeline, after LoadAnnotations::

            dict(
                type='Albu',
                transforms=[dict(type='RandomBrightnessContrast', p=0.2), dict(type='CLAHE', p=0.1)],
                bbox_params=dict(
                    type='BboxParams',
                    format='pascal_voc',
                    label_fields=['gt_bboxes_labels', 'gt_ignore_flags'],
                    min_visibility=0.0,
                    filter_lost_elements=True,
                ),
            )
    """

    #: arguments whose types are not in our registries
    types_elsewhere = ('transforms', 'bbox_params')

    def __init__(
        self,
        transforms: list[dict],
        bbox_params: dict | None = None,
        keymap: dict[str, str] | None = None,
        skip_img_without_anno: bool = False,
    ) -> None:
        self.transforms, self.bbox_params, self.keymap = transforms, bbox_params, keymap
        self.skip_img_without_anno = skip_img_without_anno
        own = dict(bbox_params or {})
        self.filter_lost_elements = own.pop('filter_lost_elements', False)
        self.label_fields = list(own.get('label_fields') or [])
        if own:
            own['label_fields'] = [*self.label_fields, 'places']
            own.setdefault('type', 'BboxParams')
        self.keymap_to_albu = keymap or KEYMAP
        self.aug = _albumentations().Compose(
            [self.albu_builder(step) for step in transforms], bbox_params=self.albu_builder(own) if own else None
        )

    def albu_builder(self, cfg: dict) -> Any:
        """Build one of albumentations' classes, with those in its ``transforms``."""
        albumentations, arguments = _albumentations(), dict(cfg)
        kind = arguments.pop('type')
        bases = albumentations.BasicTransform, albumentations.BaseCompose, albumentations.BboxParams
        known = {
            name: value
            for name, value in vars(albumentations).items()
            if inspect.isclass(value) and issubclass(value, bases)
        }
        found = known.get(kind) if isinstance(kind, str) else kind
        if not inspect.isclass(found) or not issubclass(found, bases):
            raise ArgumentError(
                f'Albu: albumentations {albumentations.__version__} has no transform {kind!r}'
                f'{nearest(str(kind), known)}'
            )
        if 'transforms' in arguments:
            arguments['transforms'] = [self.albu_builder(step) for step in arguments['transforms']]
        return found(**arguments)

    @autocast_box_type()
    def transform(self, results: dict) -> dict | None:
        """Transform ``img`` (H, W, 3) and, with ``bbox_params``, the objects.

        Returns:
            ``results``, with ``img_shape``; None where no object is left, with ``skip_img_without_anno``.
        """
        boxes, names = results.get('gt_bboxes'), self.keymap_to_albu
        given = {names[key]: value for key, value in self._inputs(results).items()}
        if boxes is not None and self.bbox_params:
            given.update({key: list(results[key]) for key in self.label_fields}, places=list(range(len(boxes))))
        if hasattr(self.aug, 'set_random_seed'):  # albumentations 2 has generators of its own
            self.aug.set_random_seed(int(np.random.randint(2**31)))
        made = self.aug(**given)
        for ours, theirs in names.items():
            if theirs in made and ours not in OBJECTS:
                results[ours] = made[theirs]
        results['img_shape'] = results['img'].shape[:2]
        if 'gt_masks' in results:
            masks = [np.asarray(mask) for mask in made.get(names['gt_masks'], ())]
            results['gt_masks'] = BitmapMasks(masks, *results['img_shape'])
        if boxes is None or not self.bbox_params:
            return results
        places = np.array(made['places'], dtype=int)
        if not len(places) and self.skip_img_without_anno:
            return None
        keep_objects(results, places)
        left = np.array(made[names['gt_bboxes']], dtype=np.float32).reshape(-1, 4)
        results['gt_bboxes'] = HorizontalBoxes(left)
        return results

    def _inputs(self, results: dict) -> dict:
        """What albumentations gets, by our keys."""
        found = {key: results[key] for key in self.keymap_to_albu if key in results and key not in OBJECTS}
        if len(results.get('gt_masks', ())):
            found['gt_masks'] = list(results['gt_masks'].to_ndarray())
        if 'gt_bboxes' in results and self.bbox_params:
            found['gt_bboxes'] = results['gt_bboxes'].numpy().tolist()
        return found


def _albumentations() -> Any:
    try:
        import albumentations
    except ImportError:
        raise ImportError("Albu needs albumentations: pip install 'mmdet-cbn[albu]'") from None
    return albumentations
