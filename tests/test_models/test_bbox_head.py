"""Box heads: losses by hand, branches, initialization, detections, half precision."""

import math

import pytest
import torch
from torch.nn import functional as F

from mmdet.models.roi_heads import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.models.task_modules import AssignResult, SamplingResult
from mmdet.ops.norm import CBN

SMALL = dict(in_channels=2, roi_feat_size=3, conv_out_channels=4, fc_out_channels=5, num_classes=3)


def sampling(num_pos, num_neg, seed=0):
    torch.manual_seed(seed)
    corner = torch.rand(num_pos + num_neg, 2) * 20
    priors = torch.cat([corner, corner + 10], 1)
    own = torch.arange(num_pos + num_neg)
    gt_inds, labels = torch.where(own < num_pos, own + 1, 0), torch.where(own < num_pos, own % 3, -1)
    assigned = AssignResult(num_pos, gt_inds, torch.zeros(len(own)), labels)
    return SamplingResult(own[:num_pos], own[num_pos:], priors, priors[:num_pos] + 1, assigned, own < 0)


@pytest.mark.parametrize('agnostic', [False, True])
def test_losses_by_hand(agnostic):
    torch.manual_seed(0)
    head = Shared2FCBBoxHead(
        in_channels=2, roi_feat_size=3, fc_out_channels=8, num_classes=3, reg_class_agnostic=agnostic
    )
    x = torch.randn(12, 2, 3, 3)
    scores, deltas = head(x)
    results = [sampling(3, 5), sampling(1, 3, 1)]
    rois = torch.zeros(12, 5)
    losses = head.loss_and_target(scores, deltas, rois, results, {})['loss_bbox']
    labels = torch.tensor([0, 1, 2, 3, 3, 3, 3, 3, 0, 3, 3, 3])
    torch.testing.assert_close(losses['loss_cls'], F.cross_entropy(scores, labels))
    want = 0
    for row, (result, i) in {0: (results[0], 0), 1: (results[0], 1), 2: (results[0], 2), 8: (results[1], 0)}.items():
        own = deltas[row] if agnostic else deltas[row].view(3, 4)[labels[row]]
        target = head.bbox_coder.encode(result.pos_priors[i : i + 1], result.pos_gt_bboxes[i : i + 1])[0]
        want = want + F.smooth_l1_loss(own, target, reduction='sum')
    torch.testing.assert_close(losses['loss_bbox'], want / 12)
    none = head.loss_and_target(scores[:4], deltas[:4], rois[:4], [sampling(0, 4)], {})['loss_bbox']
    assert none['loss_bbox'].item() == 0 and none['loss_bbox'].requires_grad


def test_shapes_and_norms():
    head = Shared4Conv1FCBBoxHead(
        in_channels=4, conv_out_channels=8, roi_feat_size=5, fc_out_channels=16, norm_cfg=dict(type='CBN', buffer_num=3)
    )
    assert sum(isinstance(m, CBN) for m in head.modules()) == 4
    keys = head.state_dict().keys()
    assert {
        'shared_convs.3.conv.weight',
        'shared_convs.0.bn.running_var',
        'shared_fcs.0.weight',
        'fc_cls.bias',
        'fc_reg.weight',
    } <= set(keys) and 'shared_convs.0.conv.bias' not in keys
    assert [tuple(o.shape) for o in head(torch.randn(2, 4, 5, 5))] == [(2, 81), (2, 320)]


def test_predicts_in_the_original_image():
    head = Shared2FCBBoxHead(in_channels=1, roi_feat_size=1, num_classes=2)
    rois = torch.tensor([[0.0, 10, 10, 30, 50]])
    cfg = dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)
    meta = dict(img_shape=(40, 60), scale_factor=(2.0, 4.0))
    [found] = head.predict_by_feat(
        [rois], [torch.tensor([[5.0, -9, 0]])], [torch.zeros(1, 8)], [meta], cfg, rescale=True
    )
    assert found.bboxes.tolist() == [[5, 2.5, 15, 10]] and found.labels.tolist() == [0]
    assert found.scores.item() == pytest.approx(1 / (1 + math.exp(-14) + math.exp(-5)))


@pytest.mark.parametrize(
    'options, keys',
    [
        (dict(), {'fc_cls': 18, 'fc_reg': 18}),
        (dict(num_shared_fcs=1, num_cls_fcs=1), {'shared_fcs.0': 18, 'cls_fcs.0': 5, 'fc_cls': 5, 'fc_reg': 5}),
        (
            dict(num_shared_convs=1, num_cls_convs=1, num_reg_fcs=2),
            {'fc_cls': 36, 'reg_fcs.0': 36, 'reg_fcs.1': 5, 'fc_reg': 5},
        ),
        (dict(num_reg_convs=2), {'fc_cls': 18, 'fc_reg': 36}),
    ],
)
def test_branches(options, keys):
    head = ConvFCBBoxHead(**SMALL, **options)
    state = head.state_dict()
    linear = {name[:-7]: v.shape[1] for name, v in state.items() if name.endswith('.weight') and v.dim() == 2}
    assert linear == keys
    convs = {name[:-12] for name, v in state.items() if name.endswith('.conv.weight')}
    assert convs == {f'{name[4:]}.{i}' for name, n in options.items() if name.endswith('convs') for i in range(n)}
    scores, deltas = head(torch.randn(6, 2, 3, 3))
    assert scores.shape == (6, 4) and deltas.shape == (6, 12)
    # Each branch has its own layers: the boxes do not hang on those of the classes.
    used = torch.autograd.grad(deltas.sum(), head.parameters(), allow_unused=True)
    for (name, _), grad in zip(head.named_parameters(), used):
        assert (grad is None) == name.startswith(('cls_', 'fc_cls')), name


def test_branch_convolutions_behind_flat_layers_are_refused():
    with pytest.raises(ValueError, match='num_shared_fcs=1'):
        ConvFCBBoxHead(**SMALL, num_shared_fcs=1, num_cls_convs=1)


def test_initialization():
    torch.manual_seed(0)
    head = ConvFCBBoxHead(num_shared_fcs=1, num_reg_fcs=1, in_channels=16, roi_feat_size=5, fc_out_channels=100)
    head.init_weights()
    for fc in (head.shared_fcs[0], head.reg_fcs[0]):
        bound = math.sqrt(6 / sum(fc.weight.shape))
        assert 0.99 * bound < fc.weight.abs().max() <= bound and not fc.bias.any()
    assert head.fc_cls.weight.std().item() == pytest.approx(0.01, rel=0.05) and not head.fc_cls.bias.any()
    assert head.fc_reg.weight.std().item() == pytest.approx(0.001, rel=0.05) and not head.fc_reg.bias.any()


def test_half_precision_does_not_round_the_number_of_regions():
    number = 1023  # 1024 in bfloat16
    head = Shared2FCBBoxHead(in_channels=1, roi_feat_size=1, fc_out_channels=4, num_classes=3)
    labels = torch.arange(number) % 4
    scores = torch.randn(number, 4).bfloat16()
    boxes = torch.zeros(number, 4)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = head.loss(
            scores, torch.zeros(number, 12).bfloat16(), torch.zeros(number, 5), labels, torch.ones(number), boxes, boxes
        )
    loss = losses['loss_cls']
    torch.testing.assert_close(loss.float(), F.cross_entropy(scores.float(), labels), rtol=2e-5, atol=0)


def test_one_box_for_all_classes_is_decoded_for_each():
    head = Shared2FCBBoxHead(in_channels=1, roi_feat_size=1, num_classes=2, reg_class_agnostic=True)
    rois = torch.tensor([[0.0, 10, 10, 30, 50], [0.0, 12, 10, 30, 50]])
    cfg = dict(score_thr=0.2, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)
    [found] = head.predict_by_feat(
        [rois], [torch.tensor([[2.0, 2, -9], [1.0, 1, -9]])], [torch.zeros(2, 4)], [dict(img_shape=(60, 60))], cfg
    )
    assert found.bboxes.tolist() == [[10, 10, 30, 50]] * 2 and sorted(found.labels.tolist()) == [0, 1]
