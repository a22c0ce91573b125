"""Anchors, coder, assigner and sampler against torchvision, by hand and by brute force."""

import pytest
import torch
from mmengine.structures import InstanceData
from torchvision.models.detection._utils import BoxCoder

from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler
from mmdet.structures.bbox import bbox_overlaps


def random_boxes(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 60
    return torch.cat([corner, corner + 4 + 30 * torch.rand(number, 2, generator=generator, dtype=torch.float64)], 1)


# -- anchors ------------------------------------------------------------------------------------------------------


def test_anchors_by_hand():
    generator = AnchorGenerator(strides=[16], ratios=[0.25, 1.0], scales=[2.0, 4.0])
    anchors = generator.grid_priors([(2, 3)])[0]
    assert generator.num_base_priors == [4] and anchors.shape == (24, 4)
    # ratio = height / width, area = (scale * stride)^2; scales change fastest
    assert anchors[:4].tolist() == [[-32, -8, 32, 8], [-64, -16, 64, 16], [-16, -16, 16, 16], [-32, -32, 32, 32]]
    torch.testing.assert_close(anchors[4:8], anchors[:4] + torch.tensor([16.0, 0, 16, 0]))
    torch.testing.assert_close(anchors[12:16], anchors[:4] + torch.tensor([0.0, 16, 0, 16]))


def test_anchor_order_offset_and_octaves():
    minor = AnchorGenerator([8], [0.25, 1.0], scales=[2.0, 4.0], scale_major=False, center_offset=0.5)
    assert minor.base_anchors[0][:2].tolist() == [[-12, 0, 20, 8], [-4, -4, 12, 12]]
    octaves = AnchorGenerator([8], [1.0], octave_base_scale=4, scales_per_octave=2)
    assert octaves.scales.tolist() == pytest.approx([4, 4 * 2**0.5])
    with pytest.raises(ValueError, match='scales'):
        AnchorGenerator([8], [1.0])
    with pytest.raises(ValueError, match='1 strides but 2'):
        octaves.grid_priors([(1, 1), (1, 1)])


def test_anchors_of_cells_in_the_padding_are_not_valid():
    generator = AnchorGenerator(strides=[8], ratios=[1.0, 2.0], scales=[1.0])
    flags = generator.valid_flags([(4, 5)], (17, 40))[0].view(4, 5, 2)
    assert flags[:3].all() and not flags[3].any()


# -- coder --------------------------------------------------------------------------------------------------------


def test_coder_equals_torchvision_and_inverts():
    priors, boxes = random_boxes(20), random_boxes(20, 1)
    coder = DeltaXYWHBBoxCoder(target_stds=[0.1, 0.1, 0.2, 0.2])
    other = BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = coder.encode(priors, boxes)
    torch.testing.assert_close(deltas, other.encode_single(boxes, priors))
    torch.testing.assert_close(coder.decode(priors, deltas), boxes)
    noise = torch.randn(20, 12, dtype=torch.float64)
    torch.testing.assert_close(coder.decode(priors, noise), other.decode_single(noise, priors))


def test_coder_bounds():
    prior = torch.tensor([[10.0, 10, 20, 20]])
    coder = DeltaXYWHBBoxCoder()
    huge = coder.decode(prior, torch.tensor([[0.0, 0, 100, -100]]))
    assert (huge[0, 2] - huge[0, 0]).item() == pytest.approx(10 * 1000 / 16, rel=1e-5)
    assert (huge[0, 3] - huge[0, 1]).item() == pytest.approx(10 * 16 / 1000, rel=1e-4)
    assert coder.decode(prior, torch.tensor([[-5.0, 5, 0, 0]]), (30, 40)).tolist() == [[0, 30, 0, 30]]


# -- assigner -----------------------------------------------------------------------------------------------------


def brute_force(overlaps, pos, neg, min_pos, low_quality):
    result = []
    for column in overlaps.t().tolist():
        best = max(column)
        result.append(column.index(best) + 1 if best >= pos else 0 if best < neg else -1)
    if low_quality:
        for i, row in enumerate(overlaps.tolist()):
            for j, value in enumerate(row):
                if value == max(row) and max(row) >= min_pos:
                    result[j] = i + 1
    return result


@pytest.mark.parametrize('low_quality', [True, False])
def test_assigner_equals_brute_force(low_quality):
    for seed in range(5):
        priors, boxes = random_boxes(60, seed), random_boxes(6, seed + 50)
        labels = torch.arange(6) % 3
        assigner = MaxIoUAssigner(0.5, 0.3, 0.2, match_low_quality=low_quality)
        got = assigner.assign(InstanceData(priors=priors), InstanceData(bboxes=boxes, labels=labels))
        want = brute_force(bbox_overlaps(boxes, priors), 0.5, 0.3, 0.2, low_quality)
        assert got.gt_inds.tolist() == want and {-1, 0} < set(want)
        assert got.labels.tolist() == [labels[i - 1].item() if i > 0 else -1 for i in want]


def test_assigner_without_objects_and_with_ignored_regions():
    priors = InstanceData(priors=torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]))
    none = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    assigner = MaxIoUAssigner(0.5, 0.5, ignore_iof_thr=0.5)
    assert assigner.assign(priors, none).gt_inds.tolist() == [0, 0]
    one = InstanceData(bboxes=torch.tensor([[0.0, 0, 10, 10]]), labels=torch.tensor([2]))
    crowd = InstanceData(bboxes=torch.tensor([[40.0, 40, 80, 80]]))
    assert assigner.assign(priors, one, crowd).gt_inds.tolist() == [1, -1]
    assert assigner.assign(priors, one).gt_inds.tolist() == [1, 0]
    assert MaxIoUAssigner(0.5, 0.5, ignore_iof_thr=-1).assign(priors, one, crowd).gt_inds.tolist() == [1, 0]


# -- sampler ------------------------------------------------------------------------------------------------------


def test_sampler_bounds_and_own_boxes():
    torch.manual_seed(0)
    priors, boxes = random_boxes(200), random_boxes(4, 9)
    priors[:60] = boxes.repeat(15, 1) + 0.1
    gt = InstanceData(bboxes=boxes, labels=torch.tensor([3, 1, 0, 2]))
    assigner = MaxIoUAssigner(0.7, 0.3)
    assigned = assigner.assign(InstanceData(priors=priors), gt)
    result = RandomSampler(32, 0.25, add_gt_as_proposals=False).sample(assigned, InstanceData(priors=priors), gt)
    assert len(result.pos_inds) == 8 and len(result.neg_inds) == 24 and not result.pos_is_gt.any()
    assert torch.equal(result.pos_gt_bboxes, boxes[result.pos_assigned_gt_inds])
    assert torch.equal(result.pos_gt_labels, gt.labels[result.pos_assigned_gt_inds])
    assert torch.equal(result.priors[:8], priors[result.pos_inds])
    assert (bbox_overlaps(result.pos_priors, result.pos_gt_bboxes, is_aligned=True) >= 0.7).all()
    assert (bbox_overlaps(result.neg_priors, boxes).amax(1) < 0.3).all()

    own = RandomSampler(500, 0.5).sample(assigned, InstanceData(priors=priors), gt)
    assert own.pos_is_gt.sum() == 4 and torch.equal(own.pos_priors[:4], boxes)
    few = RandomSampler(500, 0.5, neg_pos_ub=1).sample(assigned, InstanceData(priors=priors), gt)
    assert len(few.neg_inds) == len(few.pos_inds)


def test_sampler_without_objects_or_proposals():
    none = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    priors = InstanceData(priors=random_boxes(10).float())
    result = RandomSampler(4, 0.5).sample(MaxIoUAssigner(0.5, 0.5).assign(priors, none), priors, none)
    assert result.pos_gt_bboxes.shape == (0, 4) and len(result.neg_inds) == 4
    empty = InstanceData(priors=torch.zeros(0, 4))
    one = InstanceData(bboxes=torch.tensor([[0.0, 0, 9, 9]]), labels=torch.tensor([1]))
    result = RandomSampler(4, 0.5).sample(MaxIoUAssigner(0.5, 0.5).assign(empty, one), empty, one)
    assert result.pos_is_gt.tolist() == [True] and result.pos_gt_labels.tolist() == [1]
