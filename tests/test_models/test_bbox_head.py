"""Branches, initialization and half precision of the box head."""
import math

import pytest
import torch
from torch.nn import functional as F

from mmdet.models.roi_heads import ConvFCBBoxHead, Shared2FCBBoxHead
from mmdet.models.roi_heads.bbox_head import BBoxTargets

SMALL = dict(in_channels=2, roi_feat_size=3, conv_out_channels=4, fc_out_channels=5, num_classes=3)


@pytest.mark.parametrize('options, keys', [
    (dict(), {'fc_cls': 18, 'fc_reg': 18}),
    (dict(num_shared_fcs=1, num_cls_fcs=1), {'shared_fcs.0': 18, 'cls_fcs.0': 5, 'fc_cls': 5, 'fc_reg': 5}),
    (dict(num_shared_convs=1, num_cls_convs=1, num_reg_fcs=2),
     {'fc_cls': 36, 'reg_fcs.0': 36, 'reg_fcs.1': 5, 'fc_reg': 5}),
    (dict(num_reg_convs=2), {'fc_cls': 18, 'fc_reg': 36})])
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
    targets = BBoxTargets(labels, torch.ones(number), torch.zeros(number, 4))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = head.loss(scores, torch.zeros(number, 12).bfloat16(), targets)['loss_cls']
    torch.testing.assert_close(loss.float(), F.cross_entropy(scores.float(), labels), rtol=2e-5, atol=0)


def test_one_box_for_all_classes_is_decoded_for_each():
    head = Shared2FCBBoxHead(in_channels=1, roi_feat_size=1, num_classes=2, reg_class_agnostic=True)
    rois = torch.tensor([[0., 10, 10, 30, 50], [0., 12, 10, 30, 50]])
    cfg = dict(score_thr=0.2, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)
    found = head.predict(rois, torch.tensor([[2., 2, -9], [1., 1, -9]]), torch.zeros(2, 4),
                         dict(img_shape=(60, 60), scale_factor=(2., 2.)), cfg, rescale=False)
    assert found.bboxes.tolist() == [[10, 10, 30, 50]] * 2 and sorted(found.labels.tolist()) == [0, 1]
