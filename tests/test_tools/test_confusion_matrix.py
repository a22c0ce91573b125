"""tools/analysis_tools/confusion_matrix.py on predictions that are made of the annotations."""

import csv
import json
import pickle

import pytest
import torch
from conftest import load_tool
from matplotlib import pyplot as plt

from mmdet.run.ending import run_main


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis_tools/confusion_matrix.py')


@pytest.fixture
def predictions(tiny_shapes, tmp_path):
    """Each object found where it is, but for one of the next class and one that is missed, and one of nothing."""
    data = json.loads((tiny_shapes / 'annotations/val.json').read_text())
    classes = [category['id'] for category in data['categories']]
    samples = []
    for image in data['images']:
        found = [one for one in data['annotations'] if one['image_id'] == image['id']]
        boxes = torch.tensor([one['bbox'] for one in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([classes.index(one['category_id']) for one in found], dtype=torch.long)
        samples.append(
            dict(
                img_id=image['id'],
                pred_instances=dict(bboxes=boxes, labels=labels, scores=torch.full((len(labels),), 0.9)),
            )
        )
    full = [one['pred_instances'] for one in samples if len(one['pred_instances']['labels'])]
    wrong, missed = full[0]['labels'], full[-1]['labels'][-1].item()
    truth = wrong[0].item()
    wrong[0] = (truth + 1) % len(classes)
    for key in full[-1]:
        full[-1][key] = full[-1][key][:-1]
    full[0].update(
        bboxes=torch.cat([full[0]['bboxes'], torch.tensor([[0.0, 0, 2, 2]])]),
        labels=torch.cat([wrong, torch.tensor([2])]),
        scores=torch.cat([full[0]['scores'], torch.ones(1)]),
    )
    path = tmp_path / 'found.pkl'
    path.write_bytes(pickle.dumps(samples))
    return path, data, truth, missed


def test_matrix(tool, tiny_config, predictions, tmp_path, capsys):
    path, data, truth, missed = predictions
    tool.main([str(tiny_config), str(path), str(tmp_path / 'out'), '--title', 'T', '--color-theme', 'plasma'])
    header, *rows = csv.reader((tmp_path / 'out/confusion_matrix.csv').open())
    number = len(data['categories'])
    assert header[1:] == [row[0] for row in rows] == [one['name'] for one in data['categories']] + ['background']
    counts = [[int(value) for value in row[1:]] for row in rows]
    assert sum(map(sum, counts[:-1])) == len(data['annotations'])
    assert {(i, j): counts[i][j] for i in range(number + 1) for j in range(number + 1) if i != j and counts[i][j]} == {
        (truth, (truth + 1) % number): 1,
        (missed, number): 1,
        (number, 2): 1,
    }
    assert (tmp_path / 'out/confusion_matrix.png').stat().st_size > 5000
    assert 'background taken for an object: 1; objects taken for background: 1' in capsys.readouterr().out
    tool.main([str(tiny_config), str(path), str(tmp_path / 'out'), '--score-thr', '0.95', '--nms-iou-thr', '0.5'])
    assert 'objects taken for background: ' + str(len(data['annotations'])) in capsys.readouterr().out
    plt.close('all')


def test_errors(tool, tiny_config, predictions, tmp_path, capsys):
    def fails(*command):
        assert run_main(lambda: tool.main([str(word) for word in command])) == 1
        return capsys.readouterr().err.split('\nerror: ')[-1]

    path, out = predictions[0], tmp_path / 'out'
    assert 'absent.py: no such file' in fails('absent.py', path, out)
    assert 'absent.pkl: no such file' in fails(tiny_config, 'absent.pkl', out)
    assert '--color-theme nice' in fails(tiny_config, path, out, '--color-theme', 'nice')
    samples = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(samples[1:]))
    assert f"of 4 images, but the config's test set has 5; image {samples[0]['img_id']} is in the set only" in fails(
        tiny_config, path, out
    )
    assert not out.exists()
    with pytest.raises(SystemExit) as error:
        tool.main([str(tiny_config), str(path), str(out), '--tp-iou-thr', '50'])
    assert error.value.code == 2
