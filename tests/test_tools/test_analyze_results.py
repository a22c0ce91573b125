"""tools/analysis_tools/analyze_results.py on detections that are annotations, moved; the AP of one image."""

import json
import pickle
import re
from pathlib import Path

import cv2
import pytest
import torch
from conftest import load_tool
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData

from mmdet.analysis.confusion import Detections, Objects, build_test_set
from mmdet.analysis.results import image_ap
from mmdet.config import load_config
from mmdet.datasets.transforms.loading import decode_mask
from mmdet.evaluation import CocoMetric, DumpDetResults
from mmdet.run.ending import run_main
from mmdet.structures import DetDataSample


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis_tools/analyze_results.py')


@pytest.fixture(scope='module')
def tested(tiny_config, tmp_path_factory):
    """A file of detections, and what the metric said of them: image k has its objects moved by k pixels."""
    cfg = load_config(str(tiny_config))
    dataset = build_test_set(cfg)
    path = tmp_path_factory.mktemp('tested') / 'found.pkl'
    evaluator = Evaluator([CocoMetric(**{k: v for k, v in cfg.test_evaluator.items() if k != 'type'})])
    evaluator.metrics.append(DumpDetResults(out_file_path=str(path)))
    evaluator.dataset_meta = dataset.metainfo
    for k in range(len(dataset)):
        info = dataset.get_data_info(k)
        size = info['height'], info['width']
        meta = dict(img_id=info['img_id'], img_path=info['img_path'], ori_shape=size)
        instances = [each for each in info['instances'] if not each['ignore_flag']]
        found = InstanceData(
            bboxes=torch.tensor([each['bbox'] for each in instances]).reshape(-1, 4).float() + k,
            labels=torch.tensor([each['bbox_label'] for each in instances], dtype=torch.long),
            scores=torch.linspace(0.9, 0.4, len(instances)),
        )
        masks = [torch.tensor(decode_mask(each['mask'], *size)) for each in instances]
        found.masks = torch.stack(masks).bool().roll((k, k), (1, 2)) if masks else torch.zeros(0, *size).bool()
        evaluator.process([DetDataSample(metainfo=meta, pred_instances=found)])
    return path, evaluator.evaluate(len(dataset)), dataset


def test_the_numbers_are_those_of_the_test_and_the_worst_are_shown(tool, tested, tiny_config, tmp_path, capsys):
    path, numbers, dataset = tested
    before = path.read_bytes()
    options = ['--cfg-options', f"test_evaluator.outfile_prefix='{tmp_path}/again'"]
    tool.main([str(tiny_config), str(path), str(tmp_path / 'shown'), '--topk', '2', *options])
    output = capsys.readouterr().out
    assert {name: float(value) for name, value in re.findall(r'(coco/\w+): (-?[\d.]+)', output)} == numbers
    assert 0 < numbers['coco/segm_mAP'] < 1 and 0 < numbers['coco/bbox_mAP'] < 1
    assert (tmp_path / 'again.segm.json').is_file() and path.read_bytes() == before
    rows = re.findall(r'\| (\S+\.png) +\| ([\d.]+) +\| (\d+) +\| (\d+) +\| (\d+) +\| (\d+) ', output)
    last = [dataset.get_data_info(k)['img_path'] for k in (len(dataset) - 1, len(dataset) - 2)]
    assert {row[0] for row in rows} == set(last) and float(rows[0][1]) <= float(rows[1][1]) < 1
    for _, _, objects, right, missed, wrong in rows:
        assert int(objects) == int(right) + int(missed) and int(wrong) >= 0
    assert f'the 2 images with the lowest AP of {len(dataset)}' in output
    pictures = {folder: sorted((tmp_path / 'shown' / folder).iterdir()) for folder in ('bad', 'good')}
    assert [picture.stem.split('_')[:2] for picture in pictures['bad']] == [['001', rows[0][1]], ['002', rows[1][1]]]
    assert pictures['good'][0].name.startswith('001_1.000_') and len(pictures['good']) == 2
    left, right = (cv2.imread(str(pictures['bad'][0]))[:, cut] for cut in (slice(0, 470), slice(490, None)))
    assert left.shape[1] > 400 and right.shape[1] > 400  # side by side
    tool.main([str(tiny_config), str(path), '--topk', '100', '--show-score-thr', '0.99'])
    missed = re.findall(r'\| \S+\.png +\| [\d.]+ +\| (\d+) +\| 0 +\| \1 +\| 0 ', capsys.readouterr().out)
    assert len(missed) == sum(bool(dataset.get_data_info(k)['instances']) for k in range(len(dataset)))


def changed(samples, **more):
    return [dict(samples[0], **more), *samples[1:]]


def test_errors(tool, tested, tiny_config, tmp_path, capsys):
    samples, path = pickle.loads(tested[0].read_bytes()), tmp_path / 'found.pkl'

    def fails(content, *options):
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        assert run_main(lambda: tool.main([str(tiny_config), str(path), *options])) == 1
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert 'Traceback' not in told
        return told

    first = samples[0]['pred_instances']
    assert 'an empty list' in fails([])
    assert 'not written by mmdet test --out' in fails(tested[0].read_bytes()[:-100])
    assert 'is in the set only' in fails(samples[1:])
    assert 'is moon.png, but in the config' in fails(changed(samples, img_path='C/moon.png'))
    assert 'has the size (64, 65), but' in fails(changed(samples, ori_shape=(64, 65)))
    assert 'no finite numbers' in fails(
        changed(samples, pred_instances=dict(first, scores=first['scores'] * float('nan')))
    )
    bad = [dict(first['masks'][0], counts='0a'), *first['masks'][1:]]
    assert 'a mask is no run-length encoding' in fails(changed(samples, pred_instances=dict(first, masks=bad)))
    assert 'masks in run-length encoding' in fails(changed(samples, pred_instances=dict(first, masks=bad[1:])))
    without = [dict(each, pred_instances=dict(each['pred_instances'])) for each in samples]
    for each in without:
        del each['pred_instances']['masks']
    assert "metric 'segm' needs masks" in fails(without)
    options = ['--cfg-options', 'test_dataloader.dataset.data_prefix.img=annotations/']
    assert ': no such file; ' in fails(samples, str(tmp_path / 'shown'), *options)
    assert not (tmp_path / 'shown').exists()
    annotated = json.loads(Path(tested[2].ann_file).read_text())
    (tmp_path / 'none.json').write_text(json.dumps(dict(annotated, annotations=[])))
    options = ['--cfg-options', f'test_dataloader.dataset.ann_file={tmp_path}/none.json']
    assert 'none of 5 images has an object to find' in fails(samples, *options)


def test_ap_of_one_image():
    """One half found exactly, the other by a box of IoU 0.8, one class missed; regions to ignore count neither way."""

    def objects(boxes, labels, crowd):
        return Objects(torch.tensor(boxes, dtype=torch.float64), torch.tensor(labels), torch.tensor(crowd))

    boxes = [[0.0, 0, 10, 10], [20.0, 0, 30, 10], [50.0, 0, 60, 10], [70.0, 0, 99, 99]]
    truth = objects(boxes, [0, 0, 1, 0], [False, False, False, True])
    found = Detections(
        torch.tensor([boxes[0], [20.0, 0, 30, 8], [75.0, 5, 85, 15], [0.0, 50, 5, 55]]),
        torch.tensor([0, 0, 0, 2]),
        torch.tensor([0.8, 0.7, 0.9, 0.9]),
    )
    # at 7 of 10 thresholds both halves of class 0, else 51 of 101 points of recall; nothing of class 1
    assert image_ap(truth, found) == pytest.approx((7 + 3 * 51 / 101) / 10 / 2)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    assert image_ap(truth, nothing) == 0
    assert image_ap(objects(boxes[3:], [0], [True]), found) is None
