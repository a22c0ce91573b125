"""Subclasses as users write them, whose calls and losses are recorded from mmdetection 3.x.

Only names that both have are used, by the paths of mmdetection's documentation.
"""

import copy
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor

import mmdet.models  # noqa: F401  registers the parts
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomCrop, RandomFlip, Resize
from mmdet.evaluation import CocoMetric
from mmdet.models.backbones import ResNet
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import MaskRCNN
from mmdet.models.losses import L1Loss
from mmdet.models.necks import FPN
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import DATASETS, METRICS, MODELS, TASK_UTILS, TRANSFORMS
from mmdet.structures.bbox import bbox2roi

from . import mmdet3_cases as cases

#: where a class stands in the model
PLACES = {
    RPNHead: 'rpn_head',
    AnchorGenerator: 'rpn_head.anchor_generator',
    DeltaXYWHBBoxCoder: 'roi_head.bbox_head.bbox_coder',
    MaxIoUAssigner: 'train_cfg.rpn.assigner',
    RandomSampler: 'train_cfg.rcnn.sampler',
    StandardRoIHead: 'roi_head',
    SingleRoIExtractor: 'roi_head.bbox_roi_extractor',
    Shared2FCBBoxHead: 'roi_head.bbox_head',
    FCNMaskHead: 'roi_head.mask_head',
    L1Loss: 'roi_head.bbox_head.loss_bbox',
    ResNet: 'backbone',
    FPN: 'neck',
    DetDataPreprocessor: 'data_preprocessor',
    MaskRCNN: '',
}
TASKS = (AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler)

#: what mmdetection's documentation and heads override
SEAMS = {
    RPNHead: '_init_layers forward forward_single loss_and_predict loss_by_feat loss_by_feat_single get_anchors '
    'get_targets _get_targets_single predict predict_by_feat _predict_by_feat_single _bbox_post_process',
    AnchorGenerator: 'gen_base_anchors gen_single_level_base_anchors grid_priors single_level_grid_priors valid_flags '
    'single_level_valid_flags',
    DeltaXYWHBBoxCoder: 'encode decode',
    MaxIoUAssigner: 'assign assign_wrt_overlaps',
    RandomSampler: 'sample random_choice _sample_pos _sample_neg',
    StandardRoIHead: 'init_bbox_head init_mask_head init_assigner_sampler loss bbox_loss mask_loss _bbox_forward '
    '_mask_forward predict predict_bbox predict_mask',
    SingleRoIExtractor: 'build_roi_layers forward map_roi_levels',
    Shared2FCBBoxHead: 'forward get_targets _get_targets_single loss_and_target loss predict_by_feat '
    '_predict_by_feat_single',
    FCNMaskHead: 'forward get_targets loss_and_target predict_by_feat _predict_by_feat_single',
    L1Loss: 'forward',
    ResNet: '_make_stem_layer forward',
    FPN: 'forward',
    DetDataPreprocessor: '_get_pad_shape forward pad_gt_masks',
    MaskRCNN: 'extract_feat loss predict add_pred_to_datasample',
}


#: numbers of channels
NARROW = ['neck__out_channels', 'rpn_head__in_channels', 'rpn_head__feat_channels', 'roi_head__mask_head__in_channels']
NARROW += ['roi_head__mask_head__conv_out_channels', 'roi_head__bbox_head__in_channels']
NARROW += ['roi_head__bbox_head__fc_out_channels']
NARROW += [f'roi_head__{name}_roi_extractor__out_channels' for name in ('bbox', 'mask')]


@contextmanager
def registered(*kinds: type) -> Iterator[None]:
    """These classes are in the registries meanwhile, by their names."""
    homes = {LoadAnnotations: TRANSFORMS, Resize: TRANSFORMS, RandomFlip: TRANSFORMS, RandomCrop: TRANSFORMS}
    homes |= {PackDetInputs: TRANSFORMS, CocoDataset: DATASETS, CocoMetric: METRICS} | dict.fromkeys(TASKS, TASK_UTILS)
    places = [(next((homes[base] for base in kind.__mro__ if base in homes), MODELS), kind) for kind in kinds]
    for registry, kind in places:
        registry.register_module(module=kind)
    init_default_scope('mmdet')
    yield
    for registry, kind in places:
        del registry._module_dict[kind.__name__]


def model_of(*kinds: type) -> torch.nn.Module:
    """A small Mask R-CNN with these classes in place of those that they derive from."""
    config = cases.rcnn(
        True,
        18,
        backbone__base_channels=16,
        neck__in_channels=[16, 32, 64, 128],
        **dict.fromkeys(NARROW, 32),
        train_cfg__rpn__sampler__num=16,
        train_cfg__rcnn__sampler__num=16,
        train_cfg__rpn_proposal__nms_pre=100,
        train_cfg__rpn_proposal__max_per_img=50,
        test_cfg__rpn__nms_pre=100,
        test_cfg__rpn__max_per_img=50,
        test_cfg__rcnn__max_per_img=10,
    )
    for kind in kinds:
        base = next(base for base in kind.__mro__ if base in PLACES)
        node = config
        for key in filter(None, PLACES[base].split('.')):
            node = node[key]
        node['type'] = kind.__name__
    with registered(*kinds):
        model = MODELS.build(config)
    model.load_state_dict(cases.seeded_weights(model))
    return model


@cache
def batches() -> tuple[dict, dict]:
    """Two images to train with, and one to detect in."""
    with tempfile.TemporaryDirectory() as folder:
        train = pseudo_collate([cases.run_pipeline(name, i, folder) for i, name in enumerate(cases.PLAIN)])
        return train, pseudo_collate([cases.run_pipeline('test', 0, folder)])


def run(model: torch.nn.Module) -> dict:
    """Losses of a batch of two images, and detections in another."""
    train, test = copy.deepcopy(batches())
    torch.manual_seed(0)
    with torch.no_grad():
        losses = model(**model.data_preprocessor(train, True), mode='loss')
        [sample] = model.eval().test_step(test)
    found = sample.pred_instances
    return dict(
        losses={
            key: [one.item() for one in (value if isinstance(value, list) else [value])]
            for key, value in losses.items()
        },
        bboxes=found.bboxes.double().numpy().round(3).tolist(),
        scores=found.scores.double().numpy().round(5).tolist(),
        labels=found.labels.tolist(),
        masks=found.masks.sum((1, 2)).tolist(),
    )


# -- which methods are called, with what ------------------------------------------------------------------------------


def shape_of(value: Any) -> Any:
    """What a value is, as far as an override depends on it: types and shapes."""
    if isinstance(value, Tensor):
        return [str(value.dtype).removeprefix('torch.'), *value.shape]
    if isinstance(value, InstanceData):
        return {key: shape_of(item) for key, item in sorted(value.items())}
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (int, float)):
        return f'{len(value)} numbers'
    if isinstance(value, (list, tuple)):
        items = [shape_of(item) for item in value]
        return ['each', items[0]] if items and all(item == items[0] for item in items) else items
    if isinstance(value, dict):
        return {str(key): shape_of(item) for key, item in sorted(value.items())} if _plain(value) else 'dict'
    return value if value is None or isinstance(value, bool) else type(value).__name__


def _plain(value: dict) -> bool:
    """Not a config or an image's metainfo, which each package fills in its own way."""
    return all(isinstance(item, (Tensor, list, tuple, dict)) for item in value.values()) and 'img_shape' not in value


def spied(kind: type, calls: dict) -> type:
    """A subclass whose overrides call those of its base and note what they get and give."""

    def override(name: str) -> Callable:
        inherited = getattr(kind, name)
        static = isinstance(inspect.getattr_static(kind, name), staticmethod)
        signature = inspect.signature(inherited)

        def method(self, *args, **kwargs):
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            given = {key: shape_of(value) for key, value in list(bound.arguments.items())[1:]}
            result = inherited(self, *args, **kwargs)
            calls.setdefault(f'{kind.__name__}.{name}', []).append(dict(given=given, result=shape_of(result)))
            return result

        assert not static, name
        return method

    return type(f'Spied{kind.__name__}', (kind,), {name: override(name) for name in SEAMS[kind].split()})


def calls() -> dict:
    found: dict = {}
    run(model_of(*(spied(kind, found) for kind in SEAMS)))
    return found


# -- what an override changes -----------------------------------------------------------------------------------------


class RPNForward(RPNHead):
    def forward_single(self, x):
        scores, deltas = super().forward_single(x)
        return scores * 0.5, deltas * 0.8


class RPNLoss(RPNHead):
    def loss_by_feat(self, *args, **kwargs):
        losses = super().loss_by_feat(*args, **kwargs)
        return dict(loss_rpn_cls=[2 * one for one in losses['loss_rpn_cls']], loss_own=sum(losses['loss_rpn_bbox']))


class RPNLevel(RPNHead):
    def loss_by_feat_single(self, cls_score, bbox_pred, anchors, *rest, **kwargs):
        classes, boxes = super().loss_by_feat_single(cls_score, bbox_pred, anchors, *rest, **kwargs)
        return classes * cls_score.shape[-1], boxes + anchors[0, 0, 0]


class RPNTargets(RPNHead):
    def get_targets(self, *args, **kwargs):
        labels, label_weights, targets, weights, avg_factor = super().get_targets(*args, **kwargs)[:5]
        return labels, [one * 0.5 for one in label_weights], [one + 0.1 for one in targets], weights, avg_factor * 2


class RPNTargetsOfImage(RPNHead):
    def _get_targets_single(self, flat_anchors, valid_flags, gt_instances, img_meta, *rest, **kwargs):
        assert 'img_shape' in img_meta and len(gt_instances.bboxes)
        first, *others = super()._get_targets_single(
            flat_anchors[:, [0, 1, 2, 3]] + 4, valid_flags, gt_instances, img_meta, *rest, **kwargs
        )
        return (first, others[0] * 0.25, *others[1:])


class RPNAnchors(RPNHead):
    def get_anchors(self, featmap_sizes, batch_img_metas, device='cuda'):
        anchors, flags = super().get_anchors(featmap_sizes, batch_img_metas, device=device)
        return [[level + 3 for level in image] for image in anchors], flags


class RPNPredict(RPNHead):
    def predict_by_feat(self, *args, **kwargs):
        return [proposals[:20] for proposals in super().predict_by_feat(*args, **kwargs)]


class RPNPredictImage(RPNHead):
    def _predict_by_feat_single(self, cls_score_list, bbox_pred_list, *rest, **kwargs):
        return super()._predict_by_feat_single([-one for one in cls_score_list], bbox_pred_list, *rest, **kwargs)


class RPNPost(RPNHead):
    def _bbox_post_process(self, results, cfg, rescale=False, with_nms=True, img_meta=None):
        results.scores = results.scores * (results.level_ids + 1)
        return super()._bbox_post_process(results, cfg, rescale=rescale, with_nms=with_nms, img_meta=img_meta)


class RoIBoxLoss(StandardRoIHead):
    def bbox_loss(self, x, sampling_results):
        found = super().bbox_loss(x, sampling_results)
        found['loss_bbox']['loss_own'] = found['cls_score'].mean() + found['bbox_feats'].mean()
        found['loss_bbox']['loss_bbox'] = found['loss_bbox']['loss_bbox'] * 3
        return found


class RoIMaskLoss(StandardRoIHead):
    def mask_loss(self, x, sampling_results, bbox_feats, batch_gt_instances):
        found = super().mask_loss(x, sampling_results, bbox_feats, batch_gt_instances)
        return dict(loss_mask=dict(loss_own_mask=found['loss_mask']['loss_mask'] + found['mask_preds'].mean()))


class RoIForward(StandardRoIHead):
    def _bbox_forward(self, x, rois):
        found = super()._bbox_forward(x, rois)
        return dict(found, cls_score=found['cls_score'] + rois[:, 1:2] / 100)

    def _mask_forward(self, x, rois=None, pos_inds=None, bbox_feats=None):
        found = super()._mask_forward(x, rois, pos_inds, bbox_feats)
        return dict(found, mask_preds=found['mask_preds'] - 0.5)


class RoIWhole(StandardRoIHead):
    """Training written out, as heads of several stages have it."""

    def loss(self, x, rpn_results_list, batch_data_samples):
        sampling_results = []
        for proposals, sample in zip(rpn_results_list, batch_data_samples):
            proposals.priors = proposals.pop('bboxes')
            assigned = self.bbox_assigner.assign(proposals, sample.gt_instances, sample.get('ignored_instances'))
            sampling_results.append(self.bbox_sampler.sample(assigned, proposals, sample.gt_instances))
        rois = bbox2roi([one.priors for one in sampling_results])
        found = self._bbox_forward(x, rois)
        losses = self.bbox_head.loss_and_target(
            found['cls_score'], found['bbox_pred'], rois, sampling_results, self.train_cfg
        )['loss_bbox']
        features = self.mask_roi_extractor(
            x[: self.mask_roi_extractor.num_inputs], bbox2roi([one.pos_priors for one in sampling_results])
        )
        objects = [sample.gt_instances for sample in batch_data_samples]
        losses.update(
            self.mask_head.loss_and_target(self.mask_head(features), sampling_results, objects, self.train_cfg)[
                'loss_mask'
            ]
        )
        return losses


class RoITwice(StandardRoIHead):
    """The regions are moved once and used again, as in a cascade."""

    def bbox_loss(self, x, sampling_results):
        found = super().bbox_loss(x, sampling_results)
        rois = bbox2roi([one.priors for one in sampling_results])
        targets = self.bbox_head.get_targets(sampling_results, self.train_cfg)
        metas = [dict(img_shape=(200, 333))] * len(sampling_results)
        moved = self.bbox_head.refine_bboxes(sampling_results, dict(found, rois=rois, bbox_targets=targets), metas)
        again = self._bbox_forward(x, bbox2roi([one.bboxes for one in moved]))
        found['loss_bbox']['loss_own'] = again['cls_score'].abs().mean() + moved[0].bboxes.mean()
        return found


class RoIPredict(StandardRoIHead):
    def predict_bbox(self, x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale=False):
        found = super().predict_bbox(x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale=rescale)
        return [one[one.labels % 2 == 0] for one in found]

    def predict_mask(self, x, batch_img_metas, results_list, rescale=False):
        found = super().predict_mask(x, batch_img_metas, results_list, rescale=rescale)
        for one in found:
            one.masks = ~one.masks
        return found


class BoxForward(Shared2FCBBoxHead):
    def forward(self, x):
        scores, deltas = super().forward(x.flip(-1))
        return scores * 0.7, deltas * 0.5


class BoxTargets(Shared2FCBBoxHead):
    def get_targets(self, sampling_results, rcnn_train_cfg, concat=True):
        labels, label_weights, targets, weights = super().get_targets(sampling_results, rcnn_train_cfg, concat=concat)
        return (labels + 1) % (self.num_classes + 1), label_weights * 0.5, targets * 2, weights


class BoxTargetsOfImage(Shared2FCBBoxHead):
    def _get_targets_single(self, pos_priors, neg_priors, pos_gt_bboxes, pos_gt_labels, cfg):
        labels, label_weights, targets, weights = super()._get_targets_single(
            pos_priors, neg_priors, pos_gt_bboxes, pos_gt_labels, cfg
        )
        label_weights[: len(pos_priors)] = 2.0
        return labels, label_weights, targets, weights * 0.5


class BoxLossAndTarget(Shared2FCBBoxHead):
    def loss_and_target(self, cls_score, bbox_pred, rois, sampling_results, rcnn_train_cfg, concat=True, **kwargs):
        found = super().loss_and_target(
            cls_score, bbox_pred, rois, sampling_results, rcnn_train_cfg, concat=concat, **kwargs
        )
        labels = found['bbox_targets'][0]
        found['loss_bbox']['loss_own'] = cls_score.softmax(1)[labels == self.num_classes].amax(1).mean()
        return found


class BoxLoss(Shared2FCBBoxHead):
    def loss(self, cls_score, bbox_pred, rois, labels, label_weights, bbox_targets, *rest, **kwargs):
        losses = super().loss(cls_score, bbox_pred, rois, labels, label_weights * 3, bbox_targets, *rest, **kwargs)
        return dict(losses, loss_bbox=losses['loss_bbox'] + rois[:, 1].mean())


class BoxPredict(Shared2FCBBoxHead):
    def predict_by_feat(self, rois, cls_scores, bbox_preds, batch_img_metas, rcnn_test_cfg=None, rescale=False):
        scores = tuple(one * 2 for one in cls_scores)
        return super().predict_by_feat(rois, scores, bbox_preds, batch_img_metas, rcnn_test_cfg, rescale)


class BoxPredictImage(Shared2FCBBoxHead):
    def _predict_by_feat_single(self, roi, cls_score, bbox_pred, img_meta, rescale=False, rcnn_test_cfg=None):
        return super()._predict_by_feat_single(
            roi, cls_score, bbox_pred * 0, img_meta, rescale=rescale, rcnn_test_cfg=rcnn_test_cfg
        )


class MaskTargets(FCNMaskHead):
    def get_targets(self, sampling_results, batch_gt_instances, rcnn_train_cfg):
        return 1 - super().get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)


class MaskLoss(FCNMaskHead):
    def loss_and_target(self, mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg):
        found = super().loss_and_target(mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg)
        return dict(loss_mask=dict(loss_mask=found['loss_mask']['loss_mask'] * 2 + found['mask_targets'].mean()))


class MaskPredict(FCNMaskHead):
    def predict_by_feat(self, mask_preds, results_list, batch_img_metas, rcnn_test_cfg, rescale=False, **kwargs):
        drawn = tuple(one - 0.3 for one in mask_preds)
        return super().predict_by_feat(drawn, results_list, batch_img_metas, rcnn_test_cfg, rescale, **kwargs)


class MaskPredictImage(FCNMaskHead):
    def _predict_by_feat_single(self, mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, *rest, **kwargs):
        masks = super()._predict_by_feat_single(mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, *rest, **kwargs)
        return masks & (labels % 2 == 0)[:, None, None]


class Anchors(AnchorGenerator):
    def gen_single_level_base_anchors(self, base_size, scales, ratios, center=None):
        return super().gen_single_level_base_anchors(base_size * 1.25, scales, ratios, center)


class AnchorsOfLevel(AnchorGenerator):
    def single_level_grid_priors(self, featmap_size, level_idx, dtype=torch.float32, device='cuda'):
        return super().single_level_grid_priors(featmap_size, level_idx, dtype=dtype, device=device) + level_idx


class Coder(DeltaXYWHBBoxCoder):
    def encode(self, bboxes, gt_bboxes):
        return super().encode(bboxes, gt_bboxes) * 0.5

    def decode(self, bboxes, pred_bboxes, *args, **kwargs):
        return super().decode(bboxes, pred_bboxes * 2, *args, **kwargs)


class Assigner(MaxIoUAssigner):
    def assign(self, pred_instances, gt_instances, gt_instances_ignore=None, **kwargs):
        found = super().assign(pred_instances, gt_instances, gt_instances_ignore, **kwargs)
        found.gt_inds[pred_instances.priors[:, 0] < 20] = -1
        return found


class AssignerByOverlaps(MaxIoUAssigner):
    def assign_wrt_overlaps(self, overlaps, gt_labels):
        return super().assign_wrt_overlaps(overlaps.sqrt(), gt_labels)


class Sampler(RandomSampler):
    def _sample_pos(self, assign_result, num_expected, **kwargs):
        return (assign_result.gt_inds > 0).nonzero()[:num_expected, 0]

    def _sample_neg(self, assign_result, num_expected, **kwargs):
        return (assign_result.gt_inds == 0).nonzero()[: num_expected // 2, 0]


class SamplerByChoice(RandomSampler):
    def random_choice(self, gallery, num):
        return gallery[:num]


class Extractor(SingleRoIExtractor):
    def map_roi_levels(self, rois, num_levels):
        return (super().map_roi_levels(rois, num_levels) + 1).clamp(max=num_levels - 1)


class OwnL1(L1Loss):
    def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None):
        return super().forward(pred, target + 1, weight, avg_factor, reduction_override)


class Backbone(ResNet):
    def forward(self, x):
        return tuple(level * 0.5 for level in super().forward(x))


class BackboneLayers(ResNet):
    def make_res_layer(self, **kwargs):
        if kwargs['stride'] == 2:
            kwargs.update(dilation=2)
        return super().make_res_layer(**kwargs)


class Neck(FPN):
    def forward(self, inputs):
        first, *rest = super().forward(inputs)
        return (first + inputs[0].mean(), *rest)


class Preprocessor(DetDataPreprocessor):
    def forward(self, data, training=False):
        data = super().forward(data, training)
        return dict(data, inputs=data['inputs'].flip(-1) if training else data['inputs'] * 0.5)


class Detector(MaskRCNN):
    def extract_feat(self, batch_inputs):
        return super().extract_feat(batch_inputs.clamp(min=0))

    def loss(self, batch_inputs, batch_data_samples):
        losses = super().loss(batch_inputs, batch_data_samples)
        return dict(losses, loss_own=batch_inputs.mean() ** 2 + len(batch_data_samples))

    def add_pred_to_datasample(self, data_samples, results_list):
        return super().add_pred_to_datasample(data_samples, [one[:5] for one in results_list])


OVERRIDES = {
    kind.__name__: kind
    for kind in list(globals().values())
    if isinstance(kind, type) and kind.__module__ == __name__ and any(base in PLACES for base in kind.__mro__)
}

# -- data -------------------------------------------------------------------------------------------------------------


class OwnLoad(LoadAnnotations):
    def _load_bboxes(self, results):
        super()._load_bboxes(results)
        results['gt_bboxes'].translate_([1.5, 0])

    def _load_labels(self, results):
        super()._load_labels(results)
        results['gt_bboxes_labels'] = (results['gt_bboxes'].areas > 3000).numpy().astype(np.int64)


class OwnResize(Resize):
    def _resize_img(self, results):
        super()._resize_img(results)
        results['img'] = 255 - results['img']

    def _resize_bboxes(self, results):
        super()._resize_bboxes(results)
        results['gt_bboxes'].clip_([results['img_shape'][0] - 20, results['img_shape'][1] - 20])


class OwnFlip(RandomFlip):
    def _flip(self, results):
        super()._flip(results)
        results['gt_bboxes_labels'] = results['gt_bboxes_labels'] + 1


class OwnCrop(RandomCrop):
    def _crop_data(self, results, crop_size, allow_negative_crop):
        return super()._crop_data(results, (crop_size[0] - 10, crop_size[1] + 10), allow_negative_crop)


class OwnPack(PackDetInputs):
    def transform(self, results):
        kept = results['gt_bboxes'].is_inside(results['img_shape'], all_inside=True).numpy()
        for key in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks'):
            results[key] = results[key][kept]
        return super().transform(results)


def transforms() -> dict:
    """What a pipeline of transforms of one's own makes of an image."""
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='OwnLoad', with_mask=True),
        dict(type='OwnResize', scale=(333, 200), keep_ratio=True),
        dict(type='OwnCrop', crop_size=(150, 120), crop_type='absolute'),
        dict(type='OwnFlip', prob=1.0),
        dict(type='OwnPack'),
    ]
    with registered(OwnLoad, OwnResize, OwnFlip, OwnCrop, OwnPack):
        own = Compose(steps)
    with tempfile.TemporaryDirectory() as folder:
        results = dict(
            img_path=cases.write_image(folder),
            img_id=0,
            height=cases.HEIGHT,
            width=cases.WIDTH,
            instances=copy.deepcopy(cases.make_instances()),
        )
        np.random.seed(0)
        packed = own(results)
    return dict(
        inputs=cases.digest(packed['inputs'].numpy()), gt=cases.instances_answer(packed['data_samples'].gt_instances)
    )


class OwnDataset(CocoDataset):
    METAINFO = dict(classes=('cat', 'dog'))

    def parse_data_info(self, raw_data_info):
        info = super().parse_data_info(raw_data_info)
        info['camera'] = raw_data_info['raw_img_info'].get('camera')
        info['number'] = len(raw_data_info['raw_ann_info'])
        return info

    def filter_data(self):
        found = super().filter_data()
        return found if self.test_mode else [info for info in found if info['camera'] != 'broken']


class OwnMetric(CocoMetric):
    def process(self, data_batch, data_samples):
        super().process(data_batch, data_samples)
        self.seen = getattr(self, 'seen', 0) + len(data_samples)

    def compute_metrics(self, results):
        numbers = super().compute_metrics(results)
        truths, found = zip(*results)
        objects = sum(len(truth.get('anns', ())) for truth in truths)
        return dict(numbers, seen=self.seen, objects=objects, boxes=sum(len(one['bboxes']) for one in found))


def data() -> dict:
    """The samples of a data set of one's own, and the numbers of a metric of one's own of what is in them."""
    content = dict(
        images=[
            dict(id=i, file_name=f'{i}.png', height=40, width=60, camera=camera)
            for i, camera in enumerate(('a', 'broken', 'b', 'c'), 5)
        ],
        categories=[dict(id=3, name='cat'), dict(id=8, name='dog'), dict(id=9, name='bird')],
        annotations=[
            dict(
                id=k + 1,
                image_id=5 + k % 3,
                category_id=(3, 8, 9)[k // 3],
                bbox=[2 + k, 3, 20, 10 + k],
                area=20 * (10 + k),
                iscrowd=int(k == 7),
                segmentation=[[2 + k, 3, 22 + k, 3, 22 + k, 13 + k]],
            )
            for k in range(9)
        ],
    )
    with tempfile.TemporaryDirectory() as folder, registered(OwnDataset, OwnMetric):
        path = Path(folder) / 'own.json'
        path.write_text(json.dumps(content))
        infos, numbers = {}, {}
        for test_mode in (False, True):
            dataset = DATASETS.build(
                dict(
                    type='OwnDataset',
                    ann_file=str(path),
                    data_prefix=dict(img='images/'),
                    filter_cfg=dict(filter_empty_gt=True, min_size=32),
                    pipeline=[],
                    test_mode=test_mode,
                )
            )
            infos[test_mode] = [dataset.get_data_info(i) for i in range(len(dataset))]
        for name, ann_file in dict(file=str(path), samples=None).items():
            metric = METRICS.build(dict(type='OwnMetric', ann_file=ann_file, metric='bbox', classwise=True))
            metric.dataset_meta = dataset.metainfo
            for info in infos[True]:
                boxes = torch.tensor([one['bbox'] for one in info['instances']], dtype=torch.float32).reshape(-1, 4)
                found = dict(
                    bboxes=boxes + torch.tensor([0.0, 0, 1.5, 0]),
                    scores=torch.linspace(0.9, 0.2, len(boxes)),
                    labels=torch.tensor([one['bbox_label'] for one in info['instances']], dtype=torch.long),
                )
                sample = dict(img_id=info['img_id'], ori_shape=(40, 60), instances=info['instances'])
                metric.process({}, [dict(sample, pred_instances=found)])
            numbers[name] = {key: float(value) for key, value in metric.evaluate(len(dataset)).items()}
    keys = ('img_id', 'img_path', 'height', 'width', 'camera', 'number', 'instances')
    found = [{key: info[key] for key in keys} for info in infos[False]]
    return dict(infos=found, numbers=numbers)


def tensors() -> list:
    """What a detector says without losses or detections, ``mode='tensor'``: shapes and means, in order."""
    model = model_of().eval()
    with torch.no_grad():
        data = model.data_preprocessor(copy.deepcopy(batches()[1]))
        found = model(**data, mode='tensor')
    return _flat(found)


def _flat(value: Any) -> list:
    if isinstance(value, Tensor):
        return [list(value.shape), value.double().mean().item()]
    values = value.values() if isinstance(value, (dict, InstanceData)) else value
    return [_flat(one) for one in values]


def attributes() -> dict:
    """The public attributes and properties of each part, which a subclass's methods may read."""
    model = model_of()
    parts = [model, model.data_preprocessor, model.backbone, model.backbone.layer1[0], model.neck, model.rpn_head]
    parts += [model.roi_head, model.roi_head.bbox_head, model.roi_head.mask_head, model.roi_head.bbox_roi_extractor]
    parts += [model.rpn_head.assigner, model.rpn_head.bbox_coder, model.rpn_head.prior_generator]
    parts += [model.roi_head.bbox_sampler, model.rpn_head.loss_bbox]
    parts += [TRANSFORMS.build(dict(type=name)) for name in ('FilterAnnotations', 'PackDetInputs')]
    parts += [Resize(scale=(9, 9)), RandomFlip(prob=0.5), RandomCrop(crop_size=(9, 9))]
    found = {}
    for part in parts:
        kinds = [kind for kind in type(part).__mro__ if kind.__module__.startswith('mmdet.')]
        names = {name for kind in kinds for name, value in vars(kind).items() if isinstance(value, property)}
        names |= set(vars(part)) | set(getattr(part, '_modules', ()))
        found[type(part).__name__] = sorted(name for name in names if not name.startswith('_'))
    return found


def override(name: str) -> dict:
    """Losses and detections with one class of one's own, or with none."""
    return run(model_of(*([] if name == 'none' else [OVERRIDES[name]])))


def answers() -> dict:
    overrides = {name: override(name) for name in ('none', *OVERRIDES)}
    return dict(
        calls=calls(),
        attributes=attributes(),
        tensors=tensors(),
        transforms=transforms(),
        data=data(),
        overrides=overrides,
    )
