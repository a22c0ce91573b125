"""What a user's class overrides is called, with mmdetection's arguments and results."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmdet.config.signatures import check_overrides
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomCrop
from mmdet.mmdetection.arguments import accepts
from mmdet.models.backbones import ResNet
from mmdet.models.dense_heads import RPNHead
from mmdet.models.losses import L1Loss, smooth_l1_loss
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules import BboxOverlaps2D, DeltaXYWHBBoxCoder, RandomSampler
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks

CALLS = []


def spied(kind, *methods):
    """A subclass that notes the calls of these methods, as a user's override would get them."""

    def override(name):
        def method(self, *args, **kwargs):
            result = getattr(kind, name)(self, *args, **kwargs)
            CALLS.append((name, type(result).__name__, sorted(result) if isinstance(result, dict) else None))
            return result

        return method

    own = type(f'Spied{kind.__name__}', (kind,), {name: override(name) for name in methods})
    MODELS.register_module(module=own, force=True)
    return own.__name__


RPN = ('forward_single', 'loss_by_feat', 'loss_by_feat_single', 'get_anchors', 'get_targets', '_get_targets_single')
RPN += ('predict_by_feat', '_predict_by_feat_single', '_bbox_post_process', '_init_layers')
BOX = ('get_targets', '_get_targets_single', 'loss_and_target', 'loss', 'predict_by_feat', '_predict_by_feat_single')
MASK = ('get_targets', 'loss_and_target', 'predict_by_feat', '_predict_by_feat_single')
ROI = ('bbox_loss', 'mask_loss', '_bbox_forward', '_mask_forward', 'predict_bbox', 'predict_mask', 'init_bbox_head')
ROI += ('init_mask_head', 'init_assigner_sampler')
ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5)
SAMPLER = dict(type='RandomSampler', num=16, pos_fraction=0.5)
NMS = dict(type='nms', iou_threshold=0.7)


def detector():
    extractor = dict(type='SingleRoIExtractor', out_channels=8, featmap_strides=[32])
    return MODELS.build(
        dict(
            type='MaskRCNN',
            backbone=dict(type='ResNet', depth=18, base_channels=8, out_indices=(3,)),
            neck=dict(type='FPN', in_channels=[64], out_channels=8, num_outs=1),
            rpn_head=dict(
                type=spied(RPNHead, *RPN),
                in_channels=8,
                feat_channels=8,
                num_classes=3,  # taken as 1
                anchor_generator=dict(type='AnchorGenerator', scales=[1], ratios=[1.0], strides=[32]),
            ),
            roi_head=dict(
                type=spied(StandardRoIHead, *ROI),
                bbox_roi_extractor=dict(extractor, roi_layer=dict(type='RoIAlign', output_size=7)),
                bbox_head=dict(type=spied(Shared2FCBBoxHead, *BOX), in_channels=8, fc_out_channels=8, num_classes=3),
                mask_roi_extractor=dict(extractor, roi_layer=dict(type='RoIAlign', output_size=14)),
                mask_head=dict(
                    type=spied(FCNMaskHead, *MASK), in_channels=8, conv_out_channels=8, num_convs=1, num_classes=3
                ),
            ),
            train_cfg=dict(
                rpn=dict(assigner=ASSIGNER, sampler=dict(SAMPLER, add_gt_as_proposals=False)),
                rpn_proposal=dict(nms_pre=50, max_per_img=20, nms=NMS, min_bbox_size=0),
                rcnn=dict(assigner=ASSIGNER, sampler=SAMPLER, mask_size=28),
            ),
            test_cfg=dict(
                rpn=dict(nms_pre=50, max_per_img=20, nms=NMS, min_bbox_size=0),
                rcnn=dict(score_thr=0.0, nms=NMS, max_per_img=5, mask_thr_binary=0.5),
            ),
        )
    )


def sample(size=128):
    own = DetDataSample(
        metainfo=dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (size, size)) | dict(scale_factor=(1.0, 1.0))
    )
    masks = BitmapMasks(np.ones((1, size, size)), size, size)
    boxes = torch.tensor([[10.0, 10, 70, 60]])
    own.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([2]), masks=masks)
    return own


def test_every_override_is_called():
    CALLS.clear()
    model = detector()
    images = torch.randn(1, 3, 128, 128)
    losses = model(images, [sample()], mode='loss')
    assert {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask', 'acc'} == set(losses)
    model.eval()
    [found] = model(images, [sample()], mode='predict')
    assert found.pred_instances.masks.shape[1:] == (128, 128)
    called = {name: keys for name, _, keys in CALLS}
    assert set(called) == set(RPN) | set(BOX) | set(MASK) | set(ROI)
    assert called['bbox_loss'] == ['bbox_feats', 'bbox_pred', 'cls_score', 'loss_bbox']
    assert called['mask_loss'] == ['loss_mask', 'mask_feats', 'mask_preds']
    assert called['_bbox_forward'] == ['bbox_feats', 'bbox_pred', 'cls_score']
    assert (model.with_neck, model.with_bbox, model.with_mask, model.with_rpn, model.with_shared_head) == (
        *(True,) * 4,
        False,
    )


def test_losses_of_an_override_are_those_that_are_trained():
    class Own(Shared2FCBBoxHead):
        def loss_and_target(self, *args, **kwargs):
            found = super().loss_and_target(*args, **kwargs)
            found['loss_bbox']['loss_own'] = found['loss_bbox'].pop('loss_cls') * 0 + 7
            return found

    model = detector()
    own = Own(in_channels=8, fc_out_channels=8, num_classes=3)
    model.roi_head.bbox_head = own
    losses = model(torch.randn(1, 3, 128, 128), [sample()], mode='loss')
    assert losses['loss_own'] == 7 and 'loss_cls' not in losses


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
