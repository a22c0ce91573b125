"""RPN and RoI heads: losses by hand, predictions against plain loops, corners."""
import math

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from mmdet.models.dense_heads import RPNHead
from mmdet.models.layers import batched_nms, multiclass_nms
from mmdet.models.roi_heads import FCNMaskHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead, SingleRoIExtractor
from mmdet.models.roi_heads.fcn_mask_head import paste_mask
from mmdet.ops.norm import CBN
from mmdet.structures import DetDataSample

RPN_TRAIN = dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.3, min_pos_iou=0.1),
                 sampler=dict(type='RandomSampler', num=1000, pos_fraction=0.5, add_gt_as_proposals=False),
                 allowed_border=-1, pos_weight=-1)
RPN_TEST = dict(nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)


def sample(boxes=((4., 4, 24, 20), (30, 10, 60, 50)), size=64):
    gt = DetDataSample(metainfo=dict(img_shape=(size, size), pad_shape=(size, size), ori_shape=(size, size),
                                     scale_factor=(1., 1.)))
    boxes = torch.tensor(boxes).reshape(-1, 4)
    gt.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)) % 2)
    gt.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return gt


def rpn():
    torch.manual_seed(0)
    head = RPNHead(4, feat_channels=4, train_cfg=RPN_TRAIN, test_cfg=RPN_TEST, anchor_generator=dict(
        type='AnchorGenerator', scales=[2], ratios=[0.5, 1.0], strides=[8, 16]))
    for conv in (head.rpn_conv, head.rpn_cls, head.rpn_reg):
        nn.init.normal_(conv.weight, std=0.3)
    return head, [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)]


def test_rpn_losses_by_hand():
    head, feats = rpn()
    samples = [sample(), sample([[10., 10, 40, 40]])]
    losses = head.loss(feats, samples)
    scores, deltas = head(feats)
    anchors = torch.cat(head.prior_generator.grid_priors([(8, 8), (4, 4)]))
    cls = box = number = 0
    for i, gt in enumerate(samples):
        logits = torch.cat([s[i].permute(1, 2, 0).flatten() for s in scores])
        moves = torch.cat([d[i].permute(1, 2, 0).reshape(-1, 4) for d in deltas])
        result = head.assigner.assign(InstanceData(priors=anchors), gt.gt_instances)
        used, positive = result.gt_inds >= 0, result.gt_inds > 0
        cls = cls + F.binary_cross_entropy_with_logits(logits[used], positive[used].float(), reduction='sum')
        target = head.bbox_coder.encode(anchors[positive], gt.gt_instances.bboxes[result.gt_inds[positive] - 1])
        box = box + (moves[positive] - target).abs().sum()
        number += used.sum()
        assert positive.any() and not used.all()
    torch.testing.assert_close(sum(losses['loss_rpn_cls']), cls / number)
    torch.testing.assert_close(sum(losses['loss_rpn_bbox']), box / number)
    assert len(losses['loss_rpn_cls']) == 2


def test_rpn_allowed_border_leaves_out_anchors_that_reach_out():
    head, feats = rpn()
    head.train_cfg = dict(RPN_TRAIN, allowed_border=0)
    anchors = torch.cat(head.prior_generator.grid_priors([(8, 8), (4, 4)]))
    targets = head._targets(anchors, torch.ones(len(anchors), dtype=torch.bool), sample())
    inside = ((anchors >= 0) & (anchors < 64)).all(1)
    assert not targets.label_weights[~inside].any() and targets.label_weights[inside].any()


def test_rpn_proposals_equal_plain_loops():
    head, feats = rpn()
    result = head.predict(feats, [sample(), sample()])[1]
    scores, deltas = head(feats)
    candidates = []
    for level, (s, d, a) in enumerate(zip(scores, deltas, head.prior_generator.grid_priors([(8, 8), (4, 4)]))):
        s, d = s[1].permute(1, 2, 0).flatten().sigmoid(), d[1].permute(1, 2, 0).reshape(-1, 4)
        boxes = head.bbox_coder.decode(a, d, (64, 64))
        best = s.argsort(descending=True)[:50]
        candidates += [(s[i].item(), boxes[i], level) for i in best if (boxes[i, 2:] > boxes[i, :2]).all()]
    kept = []
    for score, box, level in sorted(candidates, key=lambda c: -c[0]):
        if all(level != other or box_iou(box[None], b[None]) <= 0.7 for _, b, other in kept):
            kept.append((score, box, level))
    torch.testing.assert_close(result.bboxes, torch.stack([k[1] for k in kept[:20]]))
    torch.testing.assert_close(result.scores, torch.tensor([k[0] for k in kept[:20]]))


def test_rpn_without_objects_trains_on_background():
    head, feats = rpn()
    losses, proposals = head.loss_and_predict(feats, [sample(()), sample(())], dict(RPN_TEST, max_per_img=3))
    total = sum(losses['loss_rpn_cls']) + sum(losses['loss_rpn_bbox'])
    total.backward()
    assert sum(losses['loss_rpn_bbox']).item() == 0 and head.rpn_reg.weight.grad is not None
    assert head.rpn_cls.weight.grad.any() and len(proposals[0]) == 3


# -- NMS ----------------------------------------------------------------------------------------------------------


def test_multiclass_nms_equals_plain_loops():
    torch.manual_seed(0)
    corner = torch.rand(40, 3, 2) * 30
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(40, 3, 2)], 2).flatten(1)
    scores = torch.rand(40, 4).softmax(1)
    got, labels = multiclass_nms(boxes, scores, 0.2, dict(type='nms', iou_threshold=0.5), 15)
    kept = []
    pairs = [(scores[i, c].item(), c, boxes[i, 4 * c:4 * c + 4]) for i in range(40) for c in range(3)]
    for score, c, box in sorted((p for p in pairs if p[0] > 0.2), key=lambda p: -p[0]):
        if all(c != k or box_iou(box[None], b[None]) <= 0.5 for _, k, b in kept):
            kept.append((score, c, box))
    kept = kept[:15]
    assert labels.tolist() == [k[1] for k in kept]
    torch.testing.assert_close(got, torch.stack([torch.cat([k[2], torch.tensor([k[0]])]) for k in kept]))
    assert multiclass_nms(boxes, scores, 2., dict(type='nms', iou_threshold=0.5))[0].shape == (0, 5)
    with pytest.raises(ValueError, match='voting'):
        batched_nms(boxes[:, :4], scores[:, 0], labels, dict(type='voting'))


# -- RoI ----------------------------------------------------------------------------------------------------------


def test_extractor_equals_torchvision_and_keeps_every_map_in_the_graph():
    torch.manual_seed(0)
    feats = [torch.randn(2, 3, s, s, requires_grad=True) for s in (32, 16, 8, 4)]
    size = torch.tensor([8., 30, 60, 120])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), size, size], 1)
    rois = torch.cat([torch.tensor([0., 1, 0, 1])[:, None], boxes], 1)
    layer = dict(type='RoIAlign', output_size=7, sampling_ratio=2)
    ours = SingleRoIExtractor(layer, 3, [4, 8, 16, 32], finest_scale=28)
    assert ours.map_roi_levels(rois).tolist() == [0, 0, 1, 2]
    out = ours(feats, rois)
    from torchvision.ops import roi_align
    for i, level in enumerate([0, 0, 1, 2]):
        want = roi_align(feats[level], rois[i:i + 1], (7, 7), 1 / 2**(level + 2), 2, True)
        torch.testing.assert_close(out[i:i + 1], want)
    out = ours(feats, rois[:0])
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert all(x.grad is not None for x in feats)
    with pytest.raises(ValueError, match='sampling_rate'):
        SingleRoIExtractor(dict(type='RoIAlign', output_size=7, sampling_rate=2), 3, [4])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_maps_keep_the_regions_pixels(dtype):
    feats = torch.arange(0, 640.).view(1, 1, 1, -1).expand(1, 1, 8, -1) / 640
    rois = torch.tensor([[0., 2100.5, 4, 2130.5, 20]])  # bfloat16 would move it by several pixels
    layer = SingleRoIExtractor(dict(type='RoIAlign', output_size=3), 1, [4])
    torch.testing.assert_close(layer([feats.to(dtype)], rois).float(), layer([feats], rois), rtol=5e-3, atol=0)
    assert layer([feats.to(dtype)], rois).dtype == dtype


def sampling(num_pos, num_neg, seed=0):
    from mmdet.models.task_modules import SamplingResult
    torch.manual_seed(seed)
    corner = torch.rand(num_pos + num_neg, 2) * 20
    priors = torch.cat([corner, corner + 10], 1)
    return SamplingResult(torch.arange(num_pos), torch.arange(num_neg), priors[:num_pos], priors[num_pos:],
                          torch.zeros(num_pos, dtype=torch.long), priors[:num_pos] + 1,
                          torch.arange(num_pos) % 3, torch.zeros(num_pos, dtype=torch.bool))


@pytest.mark.parametrize('agnostic', [False, True])
def test_bbox_head_losses_by_hand(agnostic):
    torch.manual_seed(0)
    head = Shared2FCBBoxHead(in_channels=2, roi_feat_size=3, fc_out_channels=8, num_classes=3,
                             reg_class_agnostic=agnostic)
    x = torch.randn(12, 2, 3, 3)
    scores, deltas = head(x)
    results = [sampling(3, 5), sampling(1, 3, 1)]
    losses = head.loss(scores, deltas, head.get_targets(results))
    labels = torch.tensor([0, 1, 2, 3, 3, 3, 3, 3, 0, 3, 3, 3])
    torch.testing.assert_close(losses['loss_cls'], F.cross_entropy(scores, labels))
    want = 0
    for row, (result, i) in {0: (results[0], 0), 1: (results[0], 1), 2: (results[0], 2), 8: (results[1], 0)}.items():
        own = deltas[row] if agnostic else deltas[row].view(3, 4)[labels[row]]
        target = head.bbox_coder.encode(result.pos_priors[i:i + 1], result.pos_gt_bboxes[i:i + 1])[0]
        want = want + (own - target).abs().sum()
    torch.testing.assert_close(losses['loss_bbox'], want / 12)
    none = head.loss(scores[:4], deltas[:4], head.get_targets([sampling(0, 4)]))
    assert none['loss_bbox'].item() == 0 and none['loss_bbox'].requires_grad


def test_bbox_head_shapes_and_norms():
    head = Shared4Conv1FCBBoxHead(in_channels=4, conv_out_channels=8, roi_feat_size=5, fc_out_channels=16,
                                  norm_cfg=dict(type='CBN', buffer_num=3))
    assert sum(isinstance(m, CBN) for m in head.modules()) == 4
    keys = head.state_dict().keys()
    assert {'shared_convs.3.conv.weight', 'shared_convs.0.bn.running_var', 'shared_fcs.0.weight', 'fc_cls.bias',
            'fc_reg.weight'} <= set(keys) and 'shared_convs.0.conv.bias' not in keys
    assert [tuple(o.shape) for o in head(torch.randn(2, 4, 5, 5))] == [(2, 81), (2, 320)]


def test_bbox_head_predicts_in_the_original_image():
    head = Shared2FCBBoxHead(in_channels=1, roi_feat_size=1, num_classes=2)
    rois = torch.tensor([[0., 10, 10, 30, 50]])
    cfg = dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)
    meta = dict(img_shape=(40, 60), scale_factor=(2., 4.))
    found = head.predict(rois, torch.tensor([[5., -9, 0]]), torch.zeros(1, 8), meta, cfg, rescale=True)
    assert found.bboxes.tolist() == [[5, 2.5, 15, 10]] and found.labels.tolist() == [0]
    assert found.scores.item() == pytest.approx(1 / (1 + math.exp(-14) + math.exp(-5)))


# -- masks --------------------------------------------------------------------------------------------------------


def brute_paste(mask, box, height, width, threshold):
    """Bilinear interpolation pixel by pixel, nought outside the mask."""
    out = torch.zeros(height, width, dtype=torch.bool)
    rows, columns = mask.shape
    for i in range(height):
        for j in range(width):
            v = (i + 0.5 - box[1]) / (box[3] - box[1]) * rows - 0.5
            u = (j + 0.5 - box[0]) / (box[2] - box[0]) * columns - 0.5
            value = 0.
            for r in (math.floor(v), math.floor(v) + 1):
                for c in (math.floor(u), math.floor(u) + 1):
                    if 0 <= r < rows and 0 <= c < columns:
                        value += (1 - abs(v - r)) * (1 - abs(u - c)) * mask[r, c].item()
            out[i, j] = value >= threshold
    return out


@pytest.mark.parametrize('box', [[3.3, 4.1, 20.7, 17.2], [-6., -3, 9, 8], [14., 10, 45, 38], [5., 5, 6, 6]])
@pytest.mark.parametrize('threshold', [0.5, 0.2])
def test_paste_equals_brute_force(box, threshold):
    mask = torch.rand(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    box = torch.tensor(box, dtype=torch.float64)
    part, (top, left) = paste_mask(mask, box, 24, 30, threshold)
    out = torch.zeros(24, 30, dtype=torch.bool)
    out[top:top + part.shape[0], left:left + part.shape[1]] = part
    assert torch.equal(out, brute_paste(mask, box.tolist(), 24, 30, threshold)) and out.any()


def test_paste_outside_the_image_or_without_area_is_empty():
    for box in ([40., 40, 50, 50], [-30., 0, -9, 9], [5., 5, 5, 9]):
        assert paste_mask(torch.ones(4, 4), torch.tensor(box), 20, 20, 0.5)[0].sum() == 0


def test_mask_head():
    head = FCNMaskHead(num_convs=2, in_channels=4, conv_out_channels=6, num_classes=3,
                       norm_cfg=dict(type='CBN', buffer_num=2))
    head.init_weights()
    assert {'convs.1.conv.weight', 'convs.0.bn.weight', 'upsample.weight', 'conv_logits.bias'} <= set(
        head.state_dict())
    logits = head(torch.randn(5, 4, 14, 14))
    assert logits.shape == (5, 3, 28, 28)
    masks = head.predict(logits * 0 + 9, torch.tensor([[2., 2, 10, 10]] * 5), torch.zeros(5, dtype=torch.long),
                         (20, 30), 0.5)
    assert masks.shape == (5, 20, 30) and masks[0].sum() == 64 and masks[0, 2:10, 2:10].all()


def test_mask_predictor_is_built_by_its_config():
    assert isinstance(FCNMaskHead(num_convs=1, predictor_cfg=dict(type='Conv')).conv_logits, nn.Conv2d)
    with pytest.raises(KeyError):
        FCNMaskHead(num_convs=1, predictor_cfg=dict(type='NoSuchConv'))


def test_mask_head_without_positives_gives_every_parameter_a_zero_gradient():
    head = FCNMaskHead(num_convs=2, in_channels=4, conv_out_channels=6, num_classes=3,
                       norm_cfg=dict(type='CBN', buffer_num=2))
    none = torch.zeros(0, dtype=torch.long)
    loss = head.loss(head(torch.zeros(0, 4, 14, 14)), torch.zeros(0, 28, 28), none)['loss_mask']
    loss.sum().backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
