"""Results and files have mmdetection's form; no picture replaces another; errors."""

import json

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from conftest import ROOT
from reference.mmdet3_inferencer import IMAGE, make_config, record

from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.apis.det_inferencer import unique_names


@pytest.fixture(scope='module')
def inferencer():
    return DetInferencer(make_config(with_mask=True), device='cpu', show_progress=False)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr('mmdet.apis.det_inferencer.print_log', lambda text, *_: lines.append(text))
    return lines


def test_forms_are_those_of_mmdetection(tmp_path):
    assert record(tmp_path) == json.loads((ROOT / 'tests/data/mmdet3_inferencer.json').read_text())


def test_numbers_are_those_of_inference_detector(inferencer, tmp_path):
    result = inferencer(IMAGE, no_save_pred=False, out_dir=str(tmp_path))['predictions'][0]
    found = inference_detector(inferencer.model, IMAGE).pred_instances
    assert result['scores'] == found.scores.tolist() and result['labels'] == found.labels.tolist()
    assert result['bboxes'] == found.bboxes.tolist()
    assert (np.stack([coco_mask.decode(mask) for mask in result['masks']]) == found.masks.numpy()).all()
    [path] = (tmp_path / 'preds').iterdir()
    assert json.loads(path.read_text()) == result


def test_config_out_of_the_checkpoint(tmp_path):
    cfg = make_config(with_mask=False)
    torch.manual_seed(0)
    model = init_detector(cfg, device='cpu')
    meta = dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=tuple(map(str, range(80))), palette=[(1, 2, 3)] * 80))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'x.pth')
    inferencer = DetInferencer(weights=str(tmp_path / 'x.pth'), device='cpu', show_progress=False)
    found = inference_detector(model, IMAGE).pred_instances
    assert inferencer([IMAGE])['predictions'][0]['bboxes'] == found.bboxes.tolist()
    assert inferencer.visualizer.dataset_meta == meta['dataset_meta']
    with pytest.raises(ValueError, match='x.pth.*another model'):
        DetInferencer(make_config(with_mask=True), str(tmp_path / 'x.pth'), 'cpu')


def test_model_by_name_and_by_path(tiny_config):
    assert 'mask_rcnn_r50_fpn_gn_1x' in DetInferencer.list_models('mmdet', 'mask_rcnn')
    assert all(name.startswith('mask_rcnn') for name in DetInferencer.list_models('mmdet', 'mask_rcnn'))
    with pytest.raises(KeyError, match="nearest: 'mask_rcnn_r50_fpn_gn_1x'"):
        DetInferencer('mask_rcnn_r50_fpn_gn_2x')
    with pytest.raises(ValueError, match='weights, or both'):
        DetInferencer()
    inferencer = DetInferencer(tiny_config, device='cpu', palette='red', show_progress=False)
    assert inferencer.model.dataset_meta['palette'] == [(255, 0, 0)] * 3
    with pytest.raises(FileNotFoundError, match='faster-rcnn_r18_fpn_cbn: .*no published weights .*half_fpn_cbnplus'):
        DetInferencer('faster-rcnn_r18_fpn_cbn', device='cpu')
    name = 'faster-rcnn_r18-half_fpn_cbnplus_24e'
    for words in (dict(model=name), dict(weights=name), dict(model=f'bccd/{name}.py')):
        by_name = DetInferencer(**words, device='cpu', show_progress=False)
        assert by_name.cfg.filename == str(ROOT / f'configs/bccd/{name}.py')
        assert by_name.model.dataset_meta['classes'] == ('RBC', 'WBC', 'Platelets')
    [path] = (ROOT / 'demo/models').glob(f'{name}*.pth')
    saved = torch.load(path)['state_dict']
    assert all(torch.equal(value, saved[key].to(value)) for key, value in by_name.model.state_dict().items())


def test_pictures_with_one_name_do_not_replace_each_other(inferencer, said, tmp_path):
    paths = []
    for i, name in enumerate(('1/a.png', '2/a.png', '2/a.jpg', '2/a_1.png')):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((500, 500, 3), 50 * i, np.uint8))
        paths.append(str(path))
    results = inferencer(paths, out_dir=str(tmp_path / 'out'), no_save_pred=False, batch_size=3)
    written = {path.name: cv2.imread(str(path))[5, 5, 0] for path in (tmp_path / 'out/vis').iterdir()}
    assert written == {'a.png': 0, 'a_2.png': 50, 'a_3.jpg': 100, 'a_1.png': 150}
    for stem, result in zip(('a', 'a_2', 'a_3', 'a_1'), results['predictions']):
        assert json.loads((tmp_path / f'out/preds/{stem}.json').read_text()) == result
    assert len(said) == 2 and '2/a.png' in said[0] and 'a_2' in said[0]


def test_names():
    assert unique_names([IMAGE, 'x/b.tif', IMAGE, 'b'], 7) == ['00000007.jpg', 'b.tif', '00000009.jpg', 'b_1.jpg']
    assert unique_names([], 0) == []


def test_arrays_are_counted_over_calls_and_files_keep_their_colours(tmp_path):
    inferencer = DetInferencer(make_config(with_mask=False), device='cpu', show_progress=False)
    blue = np.zeros((480, 480, 3), np.uint8)
    blue[..., 0] = 255
    inferencer([blue, blue])
    result = inferencer(blue, out_dir=str(tmp_path), draw_pred=False)
    [path] = tmp_path.rglob('*.*')
    assert path.name == '00000002.jpg' and cv2.imread(str(path))[9, 9, 0] > 250
    assert (result['visualization'][0] == blue).all()


def test_folders_of_images(inferencer, said, tmp_path):
    assert inferencer(str(tmp_path)) == dict(predictions=[], visualization=[]) and str(tmp_path) in said[0]
    for name in ('b.png', 'a.PNG'):
        (tmp_path / name).write_bytes(cv2.imencode('.png', IMAGE)[1].tobytes())
    (tmp_path / 'notes.txt').write_text('no image')
    found = inferencer(tmp_path, return_datasamples=True)['predictions']
    assert [sample.img_path for sample in found] == [str(tmp_path / 'a.PNG'), str(tmp_path / 'b.png')]


def test_printing_and_showing(inferencer, capsys, monkeypatch):
    shown, name = [], f'{inferencer.num_images:08}.jpg'
    monkeypatch.setattr('matplotlib.get_backend', lambda: 'qtagg')
    monkeypatch.setattr(type(inferencer.visualizer), 'show', lambda self, *_, **kwargs: shown.append(kwargs))
    result = inferencer(IMAGE, show=True, wait_time=0.5, print_result=True)
    assert shown == [dict(win_name=name, wait_time=0.5)]
    assert len(result['visualization']) == 1 and "'predictions'" in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments, error, says',
    [
        (dict(inputs='no/such.jpg'), FileNotFoundError, 'no/such.jpg'),
        (dict(inputs=IMAGE[..., 0]), ValueError, r'\(H, W, 3\).*\(60, 90\)'),
        (dict(inputs=5), TypeError, 'path or an array.*int'),
        (dict(inputs=[IMAGE], batch_size=0), ValueError, 'batch_size must be 1 or more, got 0'),
        (dict(inputs=IMAGE, foo=1), TypeError, 'foo'),
    ],
)
def test_bad_calls(inferencer, arguments, error, says):
    with pytest.raises(error, match=says):
        inferencer(**arguments)
