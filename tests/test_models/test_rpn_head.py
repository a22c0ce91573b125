"""Region proposal network: losses and proposals against plain loops, corners."""

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from mmdet.models.dense_heads import RPNHead
from mmdet.structures import DetDataSample

RPN_TRAIN = dict(
    assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.3, min_pos_iou=0.1),
    sampler=dict(type='RandomSampler', num=1000, pos_fraction=0.5, add_gt_as_proposals=False),
    allowed_border=-1,
    pos_weight=-1,
)
RPN_TEST = dict(nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)


def sample(boxes=((4.0, 4, 24, 20), (30, 10, 60, 50)), size=64):
    gt = DetDataSample(
        metainfo=dict(img_shape=(size, size), pad_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0))
    )
    boxes = torch.tensor(boxes).reshape(-1, 4)
    gt.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)) % 2)
    gt.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return gt


def build(strides, **options):
    torch.manual_seed(0)
    return RPNHead(
        4,
        feat_channels=4,
        anchor_generator=dict(type='AnchorGenerator', scales=[2], ratios=[0.5, 1.0], strides=strides),
        **options,
    )


def two_levels():
    """A head with large weights, and maps of two images."""
    head = build([8, 16], train_cfg=RPN_TRAIN, test_cfg=RPN_TEST)
    for conv in (head.rpn_conv, head.rpn_cls, head.rpn_reg):
        nn.init.normal_(conv.weight, std=0.3)
    return head, [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)]


def one_level(**options):
    """A head that keeps all its candidates, and the map of an image."""
    head = build([8], test_cfg=dict(RPN_TEST, nms_pre=-1, max_per_img=30), **options)
    return head, [torch.randn(1, 4, 4, 6)]


def test_losses_by_hand():
    head, feats = two_levels()
    samples = [sample(), sample([[10.0, 10, 40, 40]])]
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
        box = box + F.smooth_l1_loss(moves[positive], target, beta=1 / 9, reduction='sum')
        number += used.sum()
        assert positive.any() and not used.all()
    torch.testing.assert_close(sum(losses['loss_rpn_cls']), cls / number)
    torch.testing.assert_close(sum(losses['loss_rpn_bbox']), box / number)
    assert len(losses['loss_rpn_cls']) == 2


def test_allowed_border_leaves_out_anchors_that_reach_out():
    head, feats = two_levels()
    head.train_cfg = dict(RPN_TRAIN, allowed_border=0)
    anchors = torch.cat(head.prior_generator.grid_priors([(8, 8), (4, 4)]))
    valid, one = torch.ones(len(anchors), dtype=torch.bool), sample()
    weights = head._get_targets_single(anchors, valid, one.gt_instances, one.metainfo)[1]
    inside = ((anchors >= 0) & (anchors < 64)).all(1)
    assert not weights[~inside].any() and weights[inside].any()
    with pytest.raises(ValueError, match=r'none of 160 lies within its 8 x 8 pixels .*allowed_border=-1, now 0'):
        head.loss(feats, [sample(size=8)])


def test_proposals_equal_plain_loops():
    head, feats = two_levels()
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


def test_without_objects_trains_on_background():
    head, feats = two_levels()
    losses, proposals = head.loss_and_predict(feats, [sample(()), sample(())], dict(RPN_TEST, max_per_img=3))
    total = sum(losses['loss_rpn_cls']) + sum(losses['loss_rpn_bbox'])
    total.backward()
    assert sum(losses['loss_rpn_bbox']).item() == 0 and head.rpn_reg.weight.grad is not None
    assert head.rpn_cls.weight.grad.any() and len(proposals[0]) == 3


def meta(scale=(1.0, 1.0), shape=(32, 48)):
    return DetDataSample(metainfo=dict(img_shape=shape, pad_shape=shape, scale_factor=scale))


def test_rescale_divides_width_and_height_by_their_own_factors():
    head, feats = one_level()
    plain = head.predict(feats, [meta()])[0]
    scaled = head.predict(feats, [meta((0.5, 2.0))], rescale=True)[0]
    torch.testing.assert_close(scaled.bboxes, plain.bboxes / torch.tensor([0.5, 2, 0.5, 2]))
    torch.testing.assert_close(head.predict(feats, [meta((0.5, 2.0))])[0].bboxes, plain.bboxes)


def test_proposals_stay_in_the_image_and_are_large_enough():
    head, feats = one_level()
    found = head.predict(feats, [meta(shape=(20, 40))])[0]
    assert (found.bboxes >= 0).all() and (found.bboxes <= torch.tensor([40, 20, 40, 20])).all() and len(found)
    assert (found.scores.diff() <= 0).all() and not found.labels.any()
    head.test_cfg['min_bbox_size'] = 14
    size = head.predict(feats, [meta()])[0].bboxes.unflatten(1, (2, 2)).diff(dim=1)
    assert len(size) and (size > 14).all()
    head.test_cfg['min_bbox_size'] = 1000
    assert head.predict(feats, [meta()])[0].bboxes.shape == (0, 4)


def test_several_hidden_convolutions():
    head, _ = one_level(num_convs=2)
    keys = set(head.state_dict())
    assert {'rpn_conv.0.conv.weight', 'rpn_conv.1.conv.bias'} <= keys
    head.init_weights()
    assert head.rpn_conv[1].conv.weight.abs().max() < 0.05 and not head.rpn_cls.bias.any()
    scores, deltas = head([torch.randn(2, 4, 4, 6)])
    assert scores[0].shape == (2, 2, 4, 6) and deltas[0].shape == (2, 8, 4, 6)


@pytest.mark.parametrize(
    'options, text',
    [(dict(num_classes=2), 'num_classes'), (dict(loss_cls=dict(type='CrossEntropyLoss')), 'use_sigmoid')],
)
def test_what_is_no_rpn_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        one_level(**options)
