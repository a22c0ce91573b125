"""SingleRoIExtractor against torchvision, level by level."""

import pytest
import torch
from torchvision.ops import roi_align

from mmdet.models.roi_heads import SingleRoIExtractor


def test_extractor_equals_torchvision_and_keeps_every_map_in_the_graph():
    torch.manual_seed(0)
    feats = [torch.randn(2, 3, s, s, requires_grad=True) for s in (32, 16, 8, 4)]
    size = torch.tensor([8.0, 30, 60, 120])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), size, size], 1)
    rois = torch.cat([torch.tensor([0.0, 1, 0, 1])[:, None], boxes], 1)
    layer = dict(type='RoIAlign', output_size=7, sampling_ratio=2)
    ours = SingleRoIExtractor(layer, 3, [4, 8, 16, 32], finest_scale=28)
    assert ours.map_roi_levels(rois, 3).tolist() == [0, 0, 1, 2]
    out = ours(feats, rois)
    for i, level in enumerate([0, 0, 1, 2]):
        want = roi_align(feats[level], rois[i : i + 1], (7, 7), 1 / 2 ** (level + 2), 2, True)
        torch.testing.assert_close(out[i : i + 1], want)
    out = ours(feats, rois[:0])
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert all(x.grad is not None for x in feats)
    with pytest.raises(ValueError, match='sampling_rate'):
        SingleRoIExtractor(dict(type='RoIAlign', output_size=7, sampling_rate=2), 3, [4])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_maps_keep_the_regions_pixels(dtype):
    feats = torch.arange(0, 640.0).view(1, 1, 1, -1).expand(1, 1, 8, -1) / 640
    rois = torch.tensor([[0.0, 2100.5, 4, 2130.5, 20]])  # bfloat16 would move it by several pixels
    layer = SingleRoIExtractor(dict(type='RoIAlign', output_size=3), 1, [4])
    torch.testing.assert_close(layer([feats.to(dtype)], rois).float(), layer([feats], rois), rtol=5e-3, atol=0)
    assert layer([feats.to(dtype)], rois).dtype == dtype


@pytest.mark.parametrize('levels', [1, 4])
def test_regions_that_are_no_numbers_harm_no_other(levels):
    """A model that diverged, or a step whose loss overflowed, proposes them; nothing is read outside of a map."""
    feats = [torch.randn(1, 3, 32 >> i, 32 >> i) for i in range(levels)]
    extractor = SingleRoIExtractor(dict(type='RoIAlign', output_size=7, sampling_ratio=0), 3, [4, 8, 16, 32][:levels])
    good = torch.tensor([[0.0, 2, 2, 90, 90], [0.0, 5, 5, 20, 30]])
    bad = torch.full((3, 5), torch.nan)
    bad[:, 0] = 0
    bad[1, 1:] = torch.inf
    out = extractor(feats, torch.cat([bad, good]))
    assert out.isfinite().all() and torch.equal(out[3:], extractor(feats, good))
