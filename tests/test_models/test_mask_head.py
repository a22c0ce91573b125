"""FCNMaskHead, and the pasting of masks against brute force."""

import math

import pytest
import torch
from torch import nn

from mmdet.models.roi_heads import FCNMaskHead
from mmdet.models.roi_heads.fcn_mask_head import paste_mask


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
    part, (top, left) = paste_mask(mask, box, 24, 30, threshold)
    out = torch.zeros(24, 30, dtype=torch.bool)
    out[top : top + part.shape[0], left : left + part.shape[1]] = part
    assert torch.equal(out, brute_paste(mask, box.tolist(), 24, 30, threshold)) and out.any()


def test_paste_outside_the_image_or_without_area_is_empty():
    for box in ([40.0, 40, 50, 50], [-30.0, 0, -9, 9], [5.0, 5, 5, 9]):
        assert paste_mask(torch.ones(4, 4), torch.tensor(box), 20, 20, 0.5)[0].sum() == 0


def test_parameters_and_masks():
    head = FCNMaskHead(
        num_convs=2, in_channels=4, conv_out_channels=6, num_classes=3, norm_cfg=dict(type='CBN', buffer_num=2)
    )
    head.init_weights()
    assert {'convs.1.conv.weight', 'convs.0.bn.weight', 'upsample.weight', 'conv_logits.bias'} <= set(head.state_dict())
    logits = head(torch.randn(5, 4, 14, 14))
    assert logits.shape == (5, 3, 28, 28)
    masks = head.predict(
        logits * 0 + 9, torch.tensor([[2.0, 2, 10, 10]] * 5), torch.zeros(5, dtype=torch.long), (20, 30), 0.5
    )
    assert masks.shape == (5, 20, 30) and masks[0].sum() == 64 and masks[0, 2:10, 2:10].all()


def test_predictor_is_built_by_its_config():
    assert isinstance(FCNMaskHead(num_convs=1, predictor_cfg=dict(type='Conv')).conv_logits, nn.Conv2d)
    with pytest.raises(KeyError):
        FCNMaskHead(num_convs=1, predictor_cfg=dict(type='NoSuchConv'))


def test_without_positives_gives_every_parameter_a_zero_gradient():
    head = FCNMaskHead(
        num_convs=2, in_channels=4, conv_out_channels=6, num_classes=3, norm_cfg=dict(type='CBN', buffer_num=2)
    )
    none = torch.zeros(0, dtype=torch.long)
    loss = head.loss(head(torch.zeros(0, 4, 14, 14)), torch.zeros(0, 28, 28), none)['loss_mask']
    loss.sum().backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
