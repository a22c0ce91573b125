"""Test-time augmentation beside mmdetection's answers, a plain vote, and a detector that a flip does not change."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from reference import mmdet3_cases as cases
from torch import nn

from mmdet.cli import test
from mmdet.config import build_model, load_config
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.run.ending import run_main
from mmdet.structures import DetDataSample

ANSWERS = json.loads(gzip.decompress((Path(__file__).parents[1] / 'data' / 'mmdet3_pipelines.json.gz').read_bytes()))[
    'answers'
]
H, W = 40, 50
FLIPS = {None: (), 'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}


@pytest.mark.parametrize('seed', cases.SEEDS)
def test_boxes_as_in_mmdetection(seed):
    assert cases.tta_answer(seed) == ANSWERS[f'tta.{seed}']


class Detector(nn.Module):
    def test_step(self, data):
        return data['data_samples']


def version(direction, boxes, scores, labels, masks=None):
    """Detections (K, 4) of the image as it is stored, as a flipped version has them."""
    sample = DetDataSample(metainfo=dict(ori_shape=(H, W), flip=direction is not None, flip_direction=direction))
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    x1, y1, x2, y2 = boxes.unbind(1)
    if direction in ('horizontal', 'diagonal'):
        x1, x2 = W - x2, W - x1
    if direction in ('vertical', 'diagonal'):
        y1, y2 = H - y2, H - y1
    found = InstanceData(
        bboxes=torch.stack([x1, y1, x2, y2], 1), scores=torch.tensor(scores), labels=torch.tensor(labels).long()
    )
    if masks is not None:
        found.masks = masks.flip(FLIPS[direction])
    sample.pred_instances = found
    return sample


@pytest.mark.parametrize('kind', [torch.bool, torch.uint8])
def test_masks_vote(kind):
    generator = torch.Generator().manual_seed(0)
    boxes = [[[2, 3, 22, 23], [30, 5, 48, 35]], [[3, 3, 22, 24], [29, 5, 48, 36]], [[2, 2, 21, 23], [1, 1, 9, 9]]]
    scores, labels = [[0.9, 0.4], [0.8, 0.5], [0.3, 0.2]], [[0, 1], [0, 1], [0, 0]]
    masks = [torch.rand(2, H, W, generator=generator) for _ in boxes]
    masks = [mask > 0.5 if kind == torch.bool else (mask * 255).to(kind) for mask in masks]
    versions = [version(*one) for one in zip(('horizontal', None, 'diagonal'), boxes, scores, labels, masks)]
    [merged] = DetTTAModel(module=Detector()).merge_preds([versions])
    assert merged is versions[1]  # the one that is not flipped
    found = merged.pred_instances
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.2]) and found.labels.tolist() == [0, 1, 0]
    assert found.bboxes[0].tolist() == [2, 3, 22, 23]
    groups = [[(0, 0), (1, 0), (2, 0)], [(1, 1), (0, 1)], [(2, 1)]]
    for mask, group in zip(found.masks, groups):
        weights = np.array([scores[i][k] for i, k in group])
        mean = sum(w * masks[i][k].double() for w, (i, k) in zip(weights / weights.sum(), group))
        if kind == torch.bool:
            assert torch.equal(mask, mean >= 0.5) or (mask ^ (mean >= 0.5)).sum() <= ((mean - 0.5).abs() < 1e-6).sum()
        else:
            assert (mask.double() - mean).abs().max() <= 0.5 + 1e-4
        assert mask.dtype == kind


def test_nothing_found_in_any_version():
    empty = [version(d, [], [], [], torch.zeros(0, H, W, dtype=torch.bool)) for d in (None, 'vertical')]
    [merged] = DetTTAModel(module=Detector()).merge_preds([empty])
    assert len(merged.pred_instances) == 0 and merged.pred_instances.masks.shape == (0, H, W)


def test_versions_of_a_batch():
    """The loader gives, of each key, a list of versions of lists of images."""
    one = [[version(None, [[0, 0, 9, 9]], [0.5 + 0.1 * i], [i])] for i in range(2)]
    two = [[version('horizontal', [[0, 0, 9, 9]], [0.9 - 0.1 * i], [i])] for i in range(2)]
    data = dict(inputs=[[0, 1], [0, 1]], data_samples=[[one[0][0], one[1][0]], [two[0][0], two[1][0]]])
    merged = DetTTAModel(module=Detector()).test_step(data)
    assert [sample.pred_instances.labels.tolist() for sample in merged] == [[0], [1]]
    assert [sample.pred_instances.scores.tolist() for sample in merged] == [pytest.approx([0.9]), pytest.approx([0.8])]


def test_command(tiny_config, tmp_path, capsys):
    """mmdet test --tta: by the config, or else the image and its mirror image; with masks."""
    cfg = load_config(str(tiny_config))
    cfg.model.backbone.init_cfg = None
    init_default_scope('mmdet')
    torch.manual_seed(0)
    torch.save(dict(meta={}, state_dict=build_model(cfg).state_dict()), tmp_path / 'random.pth')
    own = tmp_path / 'own.py'
    own.write_text(
        f"_base_ = '{tiny_config}'\n"
        "tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[\n"
        "    [dict(type='Resize', scale=(side, side), keep_ratio=True) for side in (64, 96)],\n"
        "    [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0, direction='vertical')],\n"
        "    [dict(type='PackDetInputs')]])]\n"
        "tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.4), max_per_img=7))\n"
    )
    for config, most in ((tiny_config, 100), (own, 7)):
        words = [str(config), str(tmp_path / 'random.pth'), '--tta', '--out', str(tmp_path / 'found.pkl')]
        assert run_main(lambda: test.main([*words, '--work-dir', str(tmp_path / 'work')])) == 0
        found = pickle.loads((tmp_path / 'found.pkl').read_bytes())
        assert len(found) == 5 and all(len(one['pred_instances']['scores']) <= most for one in found)
        assert all(len(one['pred_instances']['masks']) == len(one['pred_instances']['scores']) for one in found)
    assert 'coco/segm_mAP' in capsys.readouterr().out
    own.write_text(own.read_text().replace("type='DetTTAModel'", "type='DetTTAModell'"))
    assert run_main(lambda: test.main([*words, '--work-dir', str(tmp_path / 'work')])) == 1
    assert "model.type: there is no 'DetTTAModell'; nearest: 'DetTTAModel'" in capsys.readouterr().err


def test_a_pipeline_that_does_not_pack_is_refused(tiny_config):
    cfg = load_config(str(tiny_config))
    cfg.test_dataloader.dataset.pipeline = cfg.test_dataloader.dataset.pipeline[:-1]
    with pytest.raises(ValueError, match='must end with PackDetInputs for --tta, ends with'):
        test.augment_test(cfg)
