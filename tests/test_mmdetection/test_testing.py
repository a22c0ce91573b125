"""mmdet.testing: what it makes up goes through every part."""

import pytest
import torch
from mmengine.registry import DefaultScope

from mmdet import testing
from mmdet.models.utils import empty_instances, rename_loss_dict, reweight_loss_dict
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes


def test_a_detector_on_what_is_made_up():
    config = testing.get_detector_cfg('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    config.backbone.update(depth=18, base_channels=4, init_cfg=None)
    config.neck.in_channels = [4, 8, 16, 32]
    config.roi_head.bbox_head.fc_out_channels = 8
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config)
    shapes, numbers = [(3, 96, 64), (3, 64, 96)], [3, 0]
    data = testing.demo_mm_inputs(2, image_shapes=shapes, num_items=numbers, with_mask=True, with_semantic=True)
    assert [image.shape for image in data['inputs']] == [torch.Size(shape) for shape in shapes]
    assert [len(sample.gt_instances) for sample in data['data_samples']] == numbers
    batch = model.data_preprocessor(data, True)
    losses = model(**batch, mode='loss')
    assert set(losses) == {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask', 'acc'}
    found = model.eval()(**batch, mode='predict')
    assert all(isinstance(sample, DetDataSample) and 'masks' in sample.pred_instances for sample in found)


def test_a_head_on_what_is_made_up():
    head = MODELS.build(testing.get_roi_head_cfg('faster-rcnn_r50_fpn_1x_coco'))
    samples = testing.demo_mm_inputs(2, use_box_type=True, num_classes=4)['data_samples']
    assert all(isinstance(sample.gt_instances.bboxes, HorizontalBoxes) for sample in samples)
    for sample in samples:
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.tensor
        assert (sample.gt_instances.labels < 4).all()
    proposals = testing.demo_mm_proposals([(3, 128, 128)] * 2, 20)
    assert ((proposals[0].bboxes >= 0) & (proposals[0].bboxes <= 128)).all()
    objects = [sample.gt_instances for sample in samples]
    sampled = testing.demo_mm_sampling_results(proposals, objects)
    for result, own in zip(sampled, objects):
        assert set(result.pos_gt_labels.tolist()) <= set(own.labels.tolist()) and len(result.neg_priors)
    feats = [torch.randn(2, 256, 128 // stride, 128 // stride) for stride in (4, 8, 16, 32)]
    assert {'loss_cls', 'loss_bbox'} <= set(head.loss(feats, proposals, samples))


def test_empty_instances():
    metas = [dict(ori_shape=(10, 12)), dict(ori_shape=(7, 5))]
    found = empty_instances(metas, 'cpu', 'bbox', num_classes=3, score_per_cls=True, use_box_type=True)
    assert isinstance(found[0].bboxes, HorizontalBoxes) and found[1].scores.shape == (0, 4)
    same = empty_instances(metas, 'cpu', 'mask', found, mask_thr_binary=-1)
    assert same is found and [one.masks.shape for one in found] == [(0, 10, 12), (0, 7, 5)]
    assert found[0].masks.dtype == torch.uint8
    with pytest.raises(AssertionError, match="got 'boxes'"):
        empty_instances(metas, 'cpu', 'boxes')


def test_losses_of_several_heads():
    losses = dict(loss_cls=torch.tensor(2.0), loss_bbox=[torch.tensor(1.0)], acc=torch.tensor(50.0))
    assert list(rename_loss_dict('stage0_', losses)) == ['stage0_loss_cls', 'stage0_loss_bbox', 'stage0_acc']
    assert reweight_loss_dict(losses, 3) == dict(loss_cls=6, loss_bbox=[3], acc=50)
