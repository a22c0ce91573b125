"""Corners of the region proposal network; losses and proposals by plain loops are in test_heads.py."""
import pytest
import torch

from mmdet.models.dense_heads import RPNHead
from mmdet.structures import DetDataSample


def meta(scale=(1., 1.), shape=(32, 48)):
    return DetDataSample(metainfo=dict(img_shape=shape, pad_shape=shape, scale_factor=scale))


def head(**options):
    torch.manual_seed(0)
    test_cfg = dict(nms_pre=-1, max_per_img=30, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
    return RPNHead(3, feat_channels=4, test_cfg=test_cfg, anchor_generator=dict(
        type='AnchorGenerator', scales=[2], ratios=[0.5, 1.0], strides=[8]), **options)


def test_rescale_divides_width_and_height_by_their_own_factors():
    rpn, feats = head(), [torch.randn(1, 3, 4, 6)]
    plain = rpn.predict(feats, [meta()])[0]
    scaled = rpn.predict(feats, [meta((0.5, 2.))], rescale=True)[0]
    torch.testing.assert_close(scaled.bboxes, plain.bboxes / torch.tensor([0.5, 2, 0.5, 2]))
    torch.testing.assert_close(rpn.predict(feats, [meta((0.5, 2.))])[0].bboxes, plain.bboxes)


def test_proposals_stay_in_the_image_and_are_large_enough():
    rpn, feats = head(), [torch.randn(1, 3, 4, 6)]
    found = rpn.predict(feats, [meta(shape=(20, 40))])[0]
    assert (found.bboxes >= 0).all() and (found.bboxes <= torch.tensor([40, 20, 40, 20])).all() and len(found)
    assert (found.scores.diff() <= 0).all() and not found.labels.any()
    rpn.test_cfg['min_bbox_size'] = 14
    size = rpn.predict(feats, [meta()])[0].bboxes.unflatten(1, (2, 2)).diff(dim=1)
    assert len(size) and (size > 14).all()
    rpn.test_cfg['min_bbox_size'] = 1000
    assert rpn.predict(feats, [meta()])[0].bboxes.shape == (0, 4)


def test_several_hidden_convolutions():
    rpn = head(num_convs=2)
    keys = set(rpn.state_dict())
    assert {'rpn_conv.0.conv.weight', 'rpn_conv.1.conv.bias'} <= keys
    rpn.init_weights()
    assert rpn.rpn_conv[1].conv.weight.abs().max() < 0.05 and not rpn.rpn_cls.bias.any()
    scores, deltas = rpn([torch.randn(2, 3, 4, 6)])
    assert scores[0].shape == (2, 2, 4, 6) and deltas[0].shape == (2, 8, 4, 6)


@pytest.mark.parametrize('options, text', [(dict(num_classes=2), 'num_classes'),
                                           (dict(loss_cls=dict(type='CrossEntropyLoss')), 'use_sigmoid')])
def test_what_is_no_rpn_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        head(**options)
