"""Box functions against torchvision and by hand."""

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from mmdet.structures.bbox import bbox2roi, bbox_overlaps, clip_boxes


def boxes(number, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 50
    return torch.cat([corner, corner + 1 + 30 * torch.rand(number, 2, generator=generator, dtype=torch.float64)], 1)


def test_overlaps_equal_torchvision():
    a, b = boxes(7, 0), boxes(5, 1)
    torch.testing.assert_close(bbox_overlaps(a, b), box_iou(a, b))
    torch.testing.assert_close(bbox_overlaps(a, b, 'giou'), generalized_box_iou(a, b))
    for mode in ('iou', 'iof', 'giou'):
        torch.testing.assert_close(
            bbox_overlaps(a[:5], b, mode, is_aligned=True), bbox_overlaps(a[:5], b, mode).diagonal()
        )


def test_iof_is_a_part_of_the_first_box():
    inner, outer = torch.tensor([[2.0, 2, 4, 4]]), torch.tensor([[0.0, 0, 10, 3]])
    assert bbox_overlaps(inner, outer, 'iof').item() == pytest.approx(0.5)
    assert bbox_overlaps(outer, inner, 'iof').item() == pytest.approx(2 / 30)


def test_no_boxes_and_boxes_without_area():
    assert bbox_overlaps(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert bbox_overlaps(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0
    with pytest.raises(AssertionError, match='diou'):
        bbox_overlaps(torch.zeros(1, 4), torch.zeros(1, 4), 'diou')


def test_rois_know_their_image():
    rois = bbox2roi([boxes(2, 0), boxes(0, 1), boxes(1, 2)])
    assert rois[:, 0].tolist() == [0, 0, 2] and torch.equal(rois[2:, 1:], boxes(1, 2))


def test_clip():
    assert clip_boxes(torch.tensor([[-3.0, 5, 90, 60]]), (50, 80)).tolist() == [[0, 5, 80, 50]]
