"""tools/analysis_tools/browse_dataset.py: what is drawn is what the model gets."""

import json
from pathlib import Path

import cv2
import pytest
import torch
from conftest import load_tool
from mmengine.config import Config

from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis_tools/browse_dataset.py')


@pytest.fixture
def seen(tool, monkeypatch):
    """What is handed to the visualizer: names, images, samples."""
    calls = []
    monkeypatch.setattr(
        tool.DetLocalVisualizer,
        'add_datasample',
        lambda self, name, image, sample, **kwargs: calls.append((name, image, sample, kwargs)),
    )
    return calls


def test_pictures_of_the_training_set(tool, tiny_config, tmp_path, capsys):
    tool.main([str(tiny_config), '--output-dir', str(tmp_path), '--not-show', '--show-number', '3'])
    files = sorted(tmp_path.iterdir())
    dataset = Config.fromfile(tiny_config).train_dataloader.dataset
    images = json.loads(Path(dataset.data_root, dataset.ann_file).read_text())['images']
    names = {image['file_name'] for image in images}
    assert len(files) == 3 and {path.name for path in files} <= names
    assert all(min(cv2.imread(str(path)).shape[:2]) >= 480 for path in files)
    assert f'3 pictures in {tmp_path}' in capsys.readouterr().out


def test_images_and_boxes_after_augmentation(tool, tiny_config, tmp_path, seen):
    options = ['--cfg-options', 'train_dataloader.dataset.pipeline.3.prob=1.0', 'randomness.seed=0']
    cfg = Config.fromfile(tiny_config)
    assert cfg.train_dataloader.dataset.pipeline[3].type == 'RandomFlip'
    tool.main([str(tiny_config), '--output-dir', str(tmp_path), '--not-show', *options])
    flips = [sample.flip for _, _, sample, _ in seen]
    plain = DATASETS.build(
        dict(
            cfg.train_dataloader.dataset,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_mask=True),
                dict(type='PackDetInputs'),
            ],
        )
    )
    assert all(flips) and len(flips) == len(plain)
    for (name, image, sample, kwargs), item in zip(seen, plain):
        assert item['data_samples'].img_path.endswith(name) and kwargs['out_file'] == str(tmp_path / name)
        assert (image == item['inputs'].numpy()[::-1, :, ::-1].transpose(1, 2, 0)).all()
        boxes, width = item['data_samples'].gt_instances.bboxes, image.shape[1]
        expected = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        assert torch.equal(sample.gt_instances.bboxes, expected)
        assert sample.gt_instances.masks.to_ndarray().shape == (len(boxes), *image.shape[:2])


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_annotations_are_loaded_for_evaluation_sets_too(tool, tiny_config, tmp_path, seen, phase):
    tool.main([str(tiny_config), '--output-dir', str(tmp_path), '--not-show', '--phase', phase])
    assert len(seen) == 5 and all(len(sample.gt_instances.bboxes) for _, _, sample, _ in seen)
    assert 'masks' in seen[0][2].gt_instances


def test_wrapped_data_sets(tool):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
    inner = dict(type='CocoDataset', pipeline=pipeline)
    out = tool.with_annotations(
        dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[inner, inner])), True
    )
    for each in out['dataset']['datasets']:
        assert [step['type'] for step in each['pipeline']] == ['LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs']
    assert len(inner['pipeline']) == 2 and tool.with_annotations(dict(each), False) == each


def test_an_image_that_comes_twice_has_two_pictures(tool, tiny_config):
    cfg = Config.fromfile(tiny_config)
    dataset = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset.to_dict()))
    names = [name for name, _, _ in tool.single_images(dataset)]
    assert len(set(names)) == len(names) == len(dataset)


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_batches_are_those_of_the_preprocessor(tool, bgr_to_rgb):
    cfg = dict(
        type='DetDataPreprocessor', mean=[10.0, 20, 30], std=[2.0, 3, 4], pad_size_divisor=32, bgr_to_rgb=bgr_to_rgb
    )
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((40, 60), (64, 50))]
    loader = [dict(inputs=images, data_samples=[DetDataSample(), DetDataSample()])]
    [[(first, sample), (second, _)]] = tool.batches(loader, MODELS.build(cfg), True)
    assert first.shape == second.shape == (64, 64, 3) and sample.batch_input_shape == (64, 64)
    for picture, image in ((first, images[0]), (second, images[1])):
        assert (picture[: image.shape[1], : image.shape[2]] == image.numpy()[::-1].transpose(1, 2, 0)).all()
    padding = (10, 20, 30) if bgr_to_rgb else (30, 20, 10)  # 0 after normalization
    assert (first[40:] == padding).all() and (first[:, 60:] == padding).all()


def test_batch_pictures(tool, tiny_config, tmp_path):
    tool.main([str(tiny_config), '--output-dir', str(tmp_path), '--not-show', '--batch'])
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [f'batch_{i:05}.png' for i in range(3)]
    picture = cv2.imread(str(files[0]))
    side = (picture.shape[1] - tool.GAP) // 2
    assert picture.shape[0] == side >= 480 and (picture[:, side : side + tool.GAP] == 255).all()


@pytest.mark.parametrize(
    'argv, says',
    [
        (['--not-show'], '--not-show without --output-dir leaves nothing to do'),
        (['--show-number', '0'], '--show-number: 0: must be a whole number, 1 or more'),
        (['--phase', 'dev'], "'dev'"),
    ],
)
def test_bad_arguments(tool, argv, says, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main(['x.py', *argv])
    assert stop.value.code == 2 and says in capsys.readouterr().err


def test_errors(tool, tiny_config, monkeypatch, tmp_path):
    monkeypatch.setattr('matplotlib.get_backend', lambda: 'agg')
    with pytest.raises(RuntimeError, match='no display here.*--not-show'):
        tool.main([str(tiny_config), '--output-dir', str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r'train_dataloader.dataset.data_root: no/such'):
        tool.main(
            [
                str(tiny_config),
                '--output-dir',
                str(tmp_path),
                '--not-show',
                '--cfg-options',
                'train_dataloader.dataset.data_root=no/such',
            ]
        )
