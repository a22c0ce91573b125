"""How detections of two models are paired and compared."""

import pytest
import torch

from mmdet.export.check import TOLERANCES, Found, compare, table

CFG = dict(score_thr=0.05, max_per_img=100)


def found(*rows, masks=None):
    """Detections of (x, score, label); boxes are 20 wide."""
    x, scores, labels = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).unbind(1)
    boxes = torch.stack([x, x * 0, x + 20, x * 0 + 20], 1)
    return Found(boxes, scores, labels.long(), *(masks or ()))


def wrong(ours, theirs, cfg=CFG, half=False):
    one = compare('', ours, theirs, cfg, TOLERANCES[half].margin)
    assert len(table([one], TOLERANCES[half]).splitlines()) == 6
    return one.too_large(TOLERANCES[half])


@pytest.mark.parametrize(
    'ours, theirs, parts',
    [
        ([], [], []),
        ([(0, 0.9, 1), (50, 0.8, 1)], [(0, 0.9, 1), (50, 0.8, 1)], []),
        ([(0, 0.9, 1), (50, 0.9, 1)], [(50, 0.9, 1), (0, 0.9, 1)], []),  # equal scores have any order
        ([(0, 0.9, 1)], [(0.005, 0.90005, 1)], []),
        ([(0, 0.9, 1)], [(0.02, 0.9, 1)], ['boxes']),
        ([(0, 0.9, 1)], [(0, 0.9002, 1)], ['scores']),
        ([(0, 0.9, 1)], [(0, 0.9, 2)], ['detections']),
        ([(0, 0.9, 1)], [], ['detections']),
        ([], [(0, 0.9, 1)], ['detections']),
        ([(0, 0.9, 1), (0, 0.05004, 1)], [(0, 0.9, 1)], []),  # at the threshold
        ([(0, 0.9, 1), (0, 0.06, 1)], [(0, 0.9, 1)], ['detections']),
        ([(0, 0.9, 1)], [(300, 0.9, 1)], ['detections']),
        ([(0, 0.9, 1)], [(0, float('nan'), 1)], ['detections']),
        ([(0, 0.9, 1)], [(float('nan'), 0.9, 1)], ['detections']),
    ],
)
def test_pairs(ours, theirs, parts):
    assert wrong(found(*ours), found(*theirs)) == parts


def test_the_last_of_a_full_list_may_be_another():
    cfg = dict(CFG, max_per_img=2)
    assert not wrong(found((0, 0.9, 1), (50, 0.5, 1)), found((0, 0.9, 1), (90, 0.5, 1)), cfg)
    assert wrong(found((0, 0.9, 1), (50, 0.5, 1)), found((0, 0.9, 1), (90, 0.5, 1))) == ['detections']


def test_float16_is_given_more_room():
    ours, theirs = found((0, 0.9, 1), (50, 0.08, 1)), found((0.6, 0.89, 1))
    assert not wrong(ours, theirs, half=True) and wrong(ours, theirs) == ['detections', 'boxes', 'scores']


def test_masks():
    cells, pixels = torch.rand(1, 28, 28), torch.zeros(1, 40, 40, dtype=torch.bool)
    pixels[0, :20, :20] = True
    one = found((0, 0.9, 1), masks=(cells, pixels))
    assert not wrong(one, one)
    assert wrong(one, found((0, 0.9, 1), masks=(cells + 2e-4, pixels))) == ['masks']
    assert wrong(one, found((0, 0.9, 1), masks=(cells, pixels.roll(1, 1)))) == ['pasted']
    corner = pixels.clone()
    corner[0, 19, 18:20] = False
    assert not wrong(one, found((0, 0.9, 1), masks=(cells, corner)))
    empty = pixels & False
    assert not wrong(found((0, 0.9, 1), masks=(cells, empty)), found((0, 0.9, 1), masks=(cells, empty)))
