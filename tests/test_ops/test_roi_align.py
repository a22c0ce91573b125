"""RoIAlign by matrix products against torchvision's."""

import pytest
import torch
import torchvision

from mmdet.ops import roi_align as module
from mmdet.ops.roi_align import roi_align


def regions(number, images, generator, reach=200):
    corner = torch.rand(number, 2, generator=generator, dtype=torch.float64) * reach - reach / 4
    size = torch.rand(number, 2, generator=generator, dtype=torch.float64) * reach * 0.75
    image = torch.randint(0, images, (number, 1), generator=generator)
    return torch.cat([image, corner, corner + size], 1)


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('ratio', [-1, 0, 1, 3])
def test_values_and_gradients_are_torchvisions(ratio, aligned):
    """Of maps of all shapes, regions within, across and beyond their borders, and none."""
    generator = torch.Generator().manual_seed(ratio + 10 * aligned)

    def draw(low, high, number=1):
        return torch.randint(low, high, (number,), generator=generator).tolist()

    for scale in (1, 0.25, 0.125) * 8:
        images, channels = draw(1, 4, 2)
        feats = torch.randn(images, channels, *draw(1, 40, 2), generator=generator, dtype=torch.float64)
        if draw(0, 2)[0]:
            feats = feats.contiguous(memory_format=torch.channels_last)
        rois = regions(draw(0, 20)[0], images, generator)
        size = tuple(draw(1, 9, 2))
        found = []
        for function in (roi_align, torchvision.ops.roi_align):
            leaf = feats.clone().requires_grad_()
            out = function(leaf, rois, size, scale, ratio, aligned)
            out.backward(torch.arange(out.numel(), dtype=torch.float64).view(out.shape).cos())
            found.append((out, leaf.grad))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_gradient_by_differences():
    feats = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0.5, 1, 4, 4], [1, 2, -3, 9, 2]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 3), 1.0, -1, True), feats)


def test_regions_without_a_size_or_a_number_are_nought():
    """torchvision wants to make a grid of a negative or an infinite number of points of them."""
    feats = torch.ones(1, 3, 8, 8, requires_grad=True)
    odd = torch.tensor([[3, 3, 2, 2], [torch.nan] * 4, [0, 0, torch.inf, 4], [-torch.inf, 0, 4, 4]])
    rois = torch.cat([torch.zeros(5, 1), torch.cat([odd, torch.tensor([[0.0, 0, 8, 8]])])], 1)
    out = roi_align(feats, rois, (2, 2), 1.0, -1, True)
    assert not out[:4].any() and out[4].eq(1).all()
    out.sum().backward()
    assert feats.grad.isfinite().all() and feats.grad.sum().item() == pytest.approx(3 * 4)


def test_too_many_points_are_torchvisions(monkeypatch):
    feats, rois = torch.randn(1, 2, 8, 8), torch.tensor([[0.0, 0, 0, 7, 7]])
    monkeypatch.setattr(module, 'MAX_POINTS', 3)
    want = torchvision.ops.roi_align(feats, rois, (2, 2), 1.0, -1, True)
    assert torch.equal(roi_align(feats, rois, (2, 2), 1.0, -1, True), want)


def test_precision_within_autocast_is_the_maps_own():
    feats, rois = torch.randn(1, 2, 8, 8), torch.tensor([[0.0, 0.3, 0.2, 7, 7]])
    with torch.autocast('cpu', torch.bfloat16):
        out = roi_align(feats, rois, (2, 2), 1.0, -1, True)
    assert torch.equal(out, roi_align(feats, rois, (2, 2), 1.0, -1, True))


def test_a_trace_has_the_operator():
    feats, rois = torch.randn(1, 2, 8, 8), torch.tensor([[0.0, 0, 0, 7, 7]])
    traced = torch.jit.trace(lambda x, y: roi_align(x, y, (2, 2), 1.0, 2, True), (feats, rois))
    assert 'torchvision::roi_align' in str(traced.graph)


def test_the_gradient_of_a_map_owns_its_memory():
    """Then autograd adds that of the map's next consumer in place."""
    seen = []
    feats, rois = torch.randn(1, 2, 8, 8, requires_grad=True), torch.tensor([[0.0, 0.3, 0.2, 7, 7]])
    feats.register_hook(lambda grad: seen.append(grad._is_view()))
    roi_align(feats, rois, (2, 2), 1.0, -1, True).sum().backward()
    assert seen == [False]
