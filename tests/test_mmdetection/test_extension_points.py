"""What a user's class overrides is called, with mmdetection's arguments and results."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from reference import mmdet3_subclasses as subclasses

from mmdet.config.signatures import check_overrides, idle_overrides
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomCrop
from mmdet.mmdetection.arguments import accepts
from mmdet.models.backbones import ResNet
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RPNHead
from mmdet.models.losses import L1Loss, smooth_l1_loss
from mmdet.models.task_modules import BboxOverlaps2D, DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler
from mmdet.models.task_modules.assigners.max_iou_assigner import assign_valid
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes

DATA = Path(__file__).parents[1] / 'data'
RECORDED = json.loads(gzip.decompress((DATA / 'mmdet3_subclasses.json.gz').read_bytes()))['answers']


def test_every_seam_is_called_as_in_mmdetection():
    """The same methods, as often, with the same arguments by name, and the same results, by shape."""
    calls = json.loads(json.dumps(subclasses.calls()))
    assert set(calls) == set(RECORDED['calls'])
    assert set(calls) == {
        f'{kind.__name__}.{name}' for kind, names in subclasses.SEAMS.items() for name in names.split()
    }
    for name, own in calls.items():
        assert own == RECORDED['calls'][name], name


@pytest.mark.parametrize('name', RECORDED['overrides'])
def test_an_override_changes_what_it_does_in_mmdetection(name):
    """Losses within 1e-5, detections within 0.01 pixel and 1e-4."""
    own, expected = subclasses.override(name), RECORDED['overrides'][name]
    assert list(own['losses']) == list(expected['losses'])
    for key, values in expected['losses'].items():
        np.testing.assert_allclose(own['losses'][key], values, rtol=1e-5, atol=1e-7, err_msg=key)
    assert own['labels'] == expected['labels']
    np.testing.assert_allclose(own['bboxes'], expected['bboxes'], rtol=0, atol=0.01)
    np.testing.assert_allclose(own['scores'], expected['scores'], rtol=0, atol=1e-4)
    np.testing.assert_allclose(own['masks'], expected['masks'], rtol=0, atol=4)
    # written out in a subclass, the same training
    assert (expected == RECORDED['overrides']['none']) == (name in ('none', 'RoIWhole'))


def test_a_subclass_finds_mmdetections_attributes():
    own = subclasses.attributes()
    missing = {
        f'{part}.{name}' for part, names in RECORDED['attributes'].items() for name in names if name not in own[part]
    }
    assert missing == {
        *('ResNet.stage_with_dcn', 'FPN.fp16_enabled', 'RPNHead.fp16_enabled', 'FCNMaskHead.upsample_cfg'),
        *('Shared2FCBBoxHead.debug_imgs', 'FCNMaskHead.debug_imgs', 'Shared2FCBBoxHead.custom_accuracy'),
        *('RandomSampler.rng', 'RandomSampler.pos_sampler', 'RandomSampler.neg_sampler'),
    }


def test_what_a_detector_says_as_tensors():
    [parts], [expected] = subclasses.tensors(), RECORDED['tensors']
    assert [shape for shape, _ in parts] == [shape for shape, _ in expected] and len(parts) == 3
    np.testing.assert_allclose([mean for _, mean in parts], [mean for _, mean in expected], rtol=1e-4)


def test_transforms_data_set_and_metric_of_ones_own():
    assert subclasses.transforms() == RECORDED['transforms']
    own, expected = subclasses.data(), RECORDED['data']
    assert own['infos'] == expected['infos'] and len(own['infos']) == 2
    assert own['numbers'] == expected['numbers']


def test_an_assigner_of_ones_own_gets_valid_priors():
    class Own(MaxIoUAssigner):
        def assign(self, pred_instances, gt_instances, gt_instances_ignore=None, **kwargs):
            assert len(pred_instances) == 3 and (pred_instances.priors[:, 2] > 0).all()
            return super().assign(pred_instances, gt_instances, gt_instances_ignore)

    priors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 12, 12], [30, 30, 40, 40], [0, 0, 9, 9]])
    objects = InstanceData(bboxes=priors[:1], labels=torch.tensor([2]))
    valid = torch.tensor([True, False, True, True])
    plain, own = (
        assign_valid(kind(0.5, 0.5, match_low_quality=False), priors, valid, objects, None)
        for kind in (MaxIoUAssigner, Own)
    )
    assert own.gt_inds.tolist() == plain.gt_inds.tolist() == [1, -1, 0, 1]
    assert own.labels.tolist() == [2, -1, -1, 2]
    torch.testing.assert_close(own.max_overlaps, torch.tensor([1, 0, 0, 0.81]))


def test_a_sampler_that_draws_twice_gives_each_prior_once():
    class Twice(RandomSampler):
        def random_choice(self, gallery, num):
            return gallery[:1].repeat(num)

    from mmdet.models.task_modules import AssignResult

    assigned = AssignResult(0, torch.zeros(40, dtype=torch.long), torch.zeros(40), torch.full((40,), -1))
    priors = InstanceData(priors=torch.rand(40, 4))
    objects = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    assert Twice(num=8, pos_fraction=0.5).sample(assigned, priors, objects).neg_inds.tolist() == [0]


@pytest.mark.parametrize(
    'method, words',
    [
        (lambda self, cls_scores, bbox_preds, targets: None, r'Own\.loss_by_feat\(self, cls_scores.* is called with'),
        (
            lambda self, a, b, c, d, e, need: None,
            r'.*called with \(cls_scores, bbox_preds, batch_gt_instances, .*ignore\)',
        ),
        (lambda self, *args: None, ''),
        (lambda self, cls_scores, bbox_preds, gts, metas, ignored=None, scale=1: None, ''),
    ],
)
def test_an_override_with_another_signature_is_refused(method, words):
    own = type('Own', (RPNHead,), dict(loss_by_feat=method))
    if words:
        with pytest.raises(TypeError, match=f'^model.rpn_head: {words}'):
            check_overrides(own, 'model.rpn_head')
    else:
        check_overrides(own, 'model.rpn_head')


def test_a_method_that_nothing_calls_is_said():
    class Own(RPNHead):
        def aug_test(self, feats):
            return super().aug_test(feats)

        def get_positive_infos(self):
            return [self.mine() for _ in range(2)]

        def mine(self):
            pass

        def loss_by_feat(self, *args, **kwargs):
            return [self.get_positive_infos() for _ in range(2)] and super().loss_by_feat(*args, **kwargs)

    assert list(idle_overrides(Own)) == ["Own.aug_test: mmdetection's RPNHead has this method; here nothing calls it"]
    assert list(idle_overrides(RPNHead)) == list(idle_overrides(dict)) == []


# -- boxes, shapes, arguments -----------------------------------------------------------------------------------------


def test_transforms_get_boxes():
    results = dict(
        img=np.zeros((40, 60, 3), np.uint8),
        ori_shape=(40, 60),
        instances=[dict(bbox=[10, 5, 30, 25], bbox_label=1, ignore_flag=0)],
    )
    results = LoadAnnotations(with_seg=False, box_type='hbox', backend_args=None)(results)
    boxes = results['gt_bboxes']
    assert isinstance(boxes, HorizontalBoxes) and boxes.areas.tolist() == [400]
    boxes.translate_([2, 3])
    packed = PackDetInputs(meta_keys=())(results)['data_samples']
    assert packed.gt_instances.bboxes.tolist() == [[12, 8, 32, 28]] and len(packed.ignored_instances) == 0
    proposals = dict(img=results['img'], proposals=np.ones((3, 4)), proposals_scores=np.ones(3))
    packed = PackDetInputs(meta_keys=())(proposals)['data_samples']
    assert packed.proposals.bboxes.shape == (3, 4) and len(packed.gt_instances) == 0


def test_maps_of_classes_go_along():
    """``gt_seg_map`` of a transform of one's own, to ``gt_sem_seg`` of a batch: each pixel where the image's is."""
    pixels = np.random.default_rng(0).integers(0, 200, (40, 60), dtype=np.uint8)
    results = dict(
        img=np.repeat(pixels[..., None], 3, 2),
        gt_seg_map=pixels.copy(),
        gt_bboxes=HorizontalBoxes([[10, 5, 30, 25], [0, 0, 3, 3]]),
        gt_bboxes_labels=np.array([1, 0]),
        gt_ignore_flags=np.zeros(2, bool),
        gt_instances_ids=np.array([7, 8]),
        img_shape=(40, 60),
    )
    steps = [
        dict(type='Resize', scale=(120, 80), interpolation='nearest'),
        dict(type='RandomCrop', crop_size=(50, 30)),
        dict(type='RandomFlip', prob=1.0),
        dict(type='Pad', size=(64, 48), pad_val=dict(img=255, seg=255)),
        dict(type='PackDetInputs', meta_keys=('img_shape',)),
    ]
    np.random.seed(1)
    with DefaultScope.overwrite_default_scope('mmdet'):
        for step in steps:
            results = TRANSFORMS.build(step)(results)
            assert 'gt_bboxes' not in results or len(results['gt_instances_ids']) == len(results['gt_bboxes'])
    sample = results['data_samples']
    assert torch.equal(sample.gt_sem_seg.sem_seg, results['inputs'][:1]) and results['inputs'].shape == (3, 48, 64)
    preprocessor = DetDataPreprocessor(
        pad_size_divisor=50,
        pad_value=9,
        pad_seg=True,
        seg_pad_value=9,
        batch_augments=[
            dict(type='BatchFixedSizePad', size=(110, 105), img_pad_value=9, pad_seg=True, seg_pad_value=9)
        ],
    )
    batch = preprocessor(dict(inputs=[results['inputs']], data_samples=[sample]), training=True)
    assert torch.equal(batch['data_samples'][0].gt_sem_seg.sem_seg, batch['inputs'][0, :1].byte())
    assert batch['inputs'].shape == (1, 3, 110, 105) and (batch['inputs'][0, :, 48:] == 9).all()
    # objects without boxes
    packed = PackDetInputs(meta_keys=())(dict(img=pixels, gt_bboxes_labels=np.array([3, 4])))['data_samples']
    assert packed.gt_instances.labels.tolist() == [3, 4] and 'bboxes' not in packed.gt_instances


def test_what_is_refused_is_caught_as_there():
    for kind in (ValueError, AssertionError, KeyError):
        with pytest.raises(kind, match=r'^ResNet: depth must be one of \[18, 34, 50, 101, 152\], got 20$'):
            ResNet(20)


def test_shapes_are_right_or_refused():
    priors, deltas = torch.rand(2, 4, 4).cumsum(-1), torch.rand(2, 4, 4)
    coder = DeltaXYWHBBoxCoder()
    together = coder.decode(priors, deltas, max_shape=[(3, 3), (1, 2)])
    apart = [coder.decode(p, d, s) for p, d, s in zip(priors, deltas, [(3, 3), (1, 2)])]
    assert torch.equal(together, torch.stack(apart))
    with pytest.raises(AssertionError, match='one for each of 2 images'):
        coder.decode(priors, deltas, max_shape=[(3, 3)] * 3)
    with pytest.raises(AssertionError, match=r'\(2, 4, 4\) and \(3, 4, 4\)'):
        coder.decode(priors, torch.rand(3, 4, 4))
    overlaps, five = BboxOverlaps2D(), torch.cat([priors[0], torch.rand(4, 1)], 1)
    assert torch.equal(overlaps(five, five), overlaps(priors[0], priors[0]))
    assert torch.equal(overlaps(priors, priors)[1], overlaps(priors[1], priors[1]))
    with pytest.raises(AssertionError, match='M, 4'):
        overlaps(priors, priors[0])
    with pytest.raises(AssertionError, match="got 'bogus'"):
        L1Loss()(five, five, reduction_override='bogus')
    assert smooth_l1_loss(torch.zeros(3, 4), torch.ones(3, 4)).item() == 0.5  # the mean, as there
    with pytest.raises(ValueError, match='whole numbers'):
        RandomCrop(crop_size=(10.0, 5.0))


def test_harmless_arguments_are_accepted_and_others_refused():
    assert ResNet(18, plugins=None, dcn=None, deep_stem=False, pretrained=None, stage_with_dcn=(True,) * 4)
    with pytest.raises(ValueError, match=r"ResNet: mmdetection's deep_stem=True is not here; leave it out, or .*False"):
        ResNet(18, deep_stem=True)

    @accepts('color', thing=None)
    class Own:
        def __init__(self, size, **kwargs):
            self.size = size

    assert Own(3, color='red', thing=None).thing is None
