"""FCNMaskHead, and the pasting of masks against brute force."""

import math

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmdet.models.roi_heads import FCNMaskHead
from mmdet.models.roi_heads.fcn_mask_head import paste_mask
from mmdet.models.task_modules import SamplingResult
from mmdet.structures.mask import BitmapMasks


def brute_paste(mask, box, height, width, threshold):
    """Bilinear interpolation pixel by pixel, nought outside the mask."""
    out = torch.zeros(height, width, dtype=torch.bool)
    rows, columns = mask.shape
    for i in range(height):
        for j in range(width):
            v = (i + 0.5 - box[1]) / (box[3] - box[1]) * rows - 0.5
            u = (j + 0.5 - box[0]) / (box[2] - box[0]) * columns - 0.5
            value = 0.0
            for r in (math.floor(v), math.floor(v) + 1):
                for c in (math.floor(u), math.floor(u) + 1):
                    if 0 <= r < rows and 0 <= c < columns:
                        value += (1 - abs(v - r)) * (1 - abs(u - c)) * mask[r, c].item()
            out[i, j] = value >= threshold
    return out


@pytest.mark.parametrize('box', [[3.3, 4.1, 20.7, 17.2], [-6.0, -3, 9, 8], [14.0, 10, 45, 38], [5.0, 5, 6, 6]])
@pytest.mark.parametrize('threshold', [0.5, 0.2])
def test_paste_equals_brute_force(box, threshold):
    mask = torch.rand(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    box = torch.tensor(box, dtype=torch.float64)
    part, (top, left) = paste_mask(mask, box, 24, 30)
    out = torch.zeros(24, 30, dtype=torch.bool)
    out[top : top + part.shape[0], left : left + part.shape[1]] = part >= threshold
    assert torch.equal(out, brute_paste(mask, box.tolist(), 24, 30, threshold)) and out.any()


def test_paste_outside_the_image_or_without_area_is_empty():
    for box in ([40.0, 40, 50, 50], [-30.0, 0, -9, 9], [5.0, 5, 5, 9]):
        assert paste_mask(torch.ones(4, 4), torch.tensor(box), 20, 20)[0].sum() == 0


def test_parameters_and_masks():
    head = FCNMaskHead(
        num_convs=2, in_channels=4, conv_out_channels=6, num_classes=3, norm_cfg=dict(type='CBN', buffer_num=2)
    )
    head.init_weights()
    assert {'convs.1.conv.weight', 'convs.0.bn.weight', 'upsample.weight', 'conv_logits.bias'} <= set(head.state_dict())
    logits = head(torch.randn(5, 4, 14, 14))
    assert logits.shape == (5, 3, 28, 28)
    results = InstanceData(bboxes=torch.tensor([[4.0, 4, 20, 20]] * 5), labels=torch.zeros(5, dtype=torch.long))
    meta = dict(img_shape=(40, 60), ori_shape=(20, 30), scale_factor=(2.0, 2.0))
    head.predict_by_feat([logits * 0 + 9], [results], [meta], dict(mask_thr_binary=0.5), rescale=True)
    masks = results.masks
    assert masks.shape == (5, 20, 30) and masks[0].sum() == 64 and masks[0, 2:10, 2:10].all()
    assert results.bboxes[0].tolist() == [2, 2, 10, 10]
    head.predict_by_feat([logits * 0 + 1], [results], [meta], dict(mask_thr_binary=-1))
    assert results.masks.shape == (5, 40, 60) and results.masks.dtype == torch.uint8  # probabilities
    assert results.masks[0, 4, 4] == int(255 / (1 + math.exp(-1)))


def test_predictor_is_built_by_its_config():
    assert isinstance(FCNMaskHead(num_convs=1, predictor_cfg=dict(type='Conv')).conv_logits, nn.Conv2d)
    with pytest.raises(KeyError):
        FCNMaskHead(num_convs=1, predictor_cfg=dict(type='NoSuchConv'))


def test_without_positives_gives_every_parameter_a_zero_gradient():
    head = FCNMaskHead(
        num_convs=2, in_channels=4, conv_out_channels=6, num_classes=3, norm_cfg=dict(type='CBN', buffer_num=2)
    )
    logits = head(torch.zeros(0, 4, 14, 14))
    none = SamplingResult.random(num_gts=0)
    objects = InstanceData(masks=BitmapMasks(np.zeros((0, 20, 30)), 20, 30))
    loss = head.loss_and_target(logits, [none], [objects], dict(mask_size=28))['loss_mask']['loss_mask']
    loss.sum().backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
