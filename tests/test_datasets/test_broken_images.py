"""Images that cannot be read, met in the middle of a training."""

import json
import re
import shutil

import cv2
import mmengine
import numpy as np
import pytest
import torch
from conftest import load_tool
from mmcv.transforms import Compose

from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms.loading import cut_off
from mmdet.run.ending import run_main

CLASSES = dict(classes=('circle', 'square', 'triangle'))
PIPELINE = [
    dict(type='mmdet.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs'),
]


@pytest.fixture
def folder(tiny_shapes, tmp_path):
    """A copy of the shapes set that may be damaged."""
    return shutil.copytree(tiny_shapes, tmp_path / 'shapes')


def images(folder):
    return sorted(path for path in folder.glob('**/*') if path.suffix in ('.png', '.jpg') and 'train' in str(path))


def dataset(folder, **kwargs):
    return CocoDataset(
        ann_file='annotations/train.json',
        data_root=str(folder),
        data_prefix=dict(img=str(images(folder)[0].parent.relative_to(folder))),
        metainfo=CLASSES,
        pipeline=kwargs.pop('pipeline', PIPELINE),
        **kwargs,
    )


def picture(ending, size=40):
    image = np.random.RandomState(0).randint(0, 255, (size, size, 3), dtype=np.uint8)
    return cv2.imencode(ending, image)[1].tobytes()


BREAKS = dict(
    empty=lambda data: b'',
    text=lambda data: b'<html>404</html>',
    half=lambda data: data[: len(data) // 2],
    end=lambda data: data[:-13],
    zeros=lambda data: bytes(len(data)),
)


@pytest.mark.parametrize('how', BREAKS)
def test_a_broken_image_is_named(folder, how):
    path = images(folder)[2]
    path.write_bytes(BREAKS[how](path.read_bytes()))
    data = dataset(folder)
    with pytest.raises(ValueError, match=f'image {re.escape(str(path))}: cannot be read as an image'):
        for i in range(len(data)):
            data[i]


def test_a_missing_image_is_named(folder):
    images(folder)[2].unlink()
    with pytest.raises(FileNotFoundError, match=f'image {re.escape(str(folder))}.*no such file.*data_prefix'):
        dataset(folder)[2]


def test_another_is_taken_up_to_the_share(folder, monkeypatch):
    said = []
    monkeypatch.setattr('mmdet.datasets.base_det_dataset.print_log', lambda text, *_: said.append(text))
    path = images(folder)[2]
    path.write_bytes(b'')
    data = dataset(folder, skip_broken=0.2)  # one of six
    whole = dataset(folder)
    for _ in range(2):
        for i in range(len(data)):
            sample = data[i]['data_samples']
            assert sample.img_path != str(path)
            assert i == 2 or sample.img_path == whole.get_data_info(i)['img_path']
    [warning] = [text for text in said if 'another sample is taken' in text]
    assert str(path) in warning and '1 of 6 images are broken so far' in warning
    images(folder)[3].unlink()
    with pytest.raises(FileNotFoundError, match='2 of 6 images are broken so far, more than skip_broken=0.2'):
        for i in range(len(data)):
            data[i]


def test_workers_count_together(folder):
    for path in images(folder)[1:3]:
        path.write_bytes(b'')
    loader = torch.utils.data.DataLoader(dataset(folder, skip_broken=0.2), num_workers=2, collate_fn=list)
    with pytest.raises(ValueError, match='2 of 6 images are broken'):
        list(loader)


def test_never_in_evaluation(folder):
    images(folder)[0].write_bytes(b'')
    with pytest.raises(ValueError, match='cannot be read'):
        dataset(folder, skip_broken=0.5, test_mode=True)[0]


@pytest.mark.parametrize('share', [-0.1, 1, True, 'a', None])
def test_a_share(folder, share):
    with pytest.raises(ValueError, match='skip_broken must be a share'):
        dataset(folder, skip_broken=share)


def test_any_failing_step_names_the_image(folder):
    @mmengine.TRANSFORMS.register_module(force=True)
    class Fails:
        def __call__(self, results):
            raise KeyError('gt_things')

    data = dataset(folder, pipeline=[PIPELINE[0], dict(type='Fails')])
    path = data.get_data_info(1)['img_path']
    with pytest.raises(ValueError, match=rf"pipeline: Fails finds no 'gt_things' .*\(image {re.escape(path)}\)"):
        data[1]


@pytest.mark.parametrize('flip', ['horizontal', 'vertical', 'diagonal'])
@pytest.mark.parametrize('shape', [(1, 1), (1, 5), (5, 1)])
def test_images_one_pixel_wide(shape, flip):
    image = np.arange(3 * shape[0] * shape[1], dtype=np.uint8).reshape(*shape, 3)
    results = dict(img=image, img_shape=shape, gt_bboxes=np.zeros((0, 4), np.float32))
    pipeline = [dict(type='mmdet.RandomFlip', prob=1.0, direction=flip), dict(type='mmdet.PackDetInputs')]
    packed = Compose(pipeline)(results)
    axes = dict(horizontal=(2,), vertical=(1,), diagonal=(1, 2))[flip]
    assert torch.equal(packed['inputs'], torch.from_numpy(image.transpose(2, 0, 1).copy()).flip(axes))


@pytest.mark.parametrize(
    'box', [[float('nan'), 0, 1, 1], [0, 0, float('inf'), 1], [5, 0, 4, 1], [0, 5, 1, 4], [0, 0, 1e9, 1]]
)
def test_no_odd_box_reaches_the_loss(box):
    boxes = np.array([[0, 0, 1, 1], box], np.float32)
    results = dict(img=np.zeros((4, 4, 3), np.uint8), img_path='a.jpg', gt_bboxes=boxes)
    with pytest.raises(ValueError, match='image a.jpg: the pipeline has made the box'):
        Compose([dict(type='mmdet.PackDetInputs')])(results)


@pytest.mark.parametrize('shape, says', [((32, 64), 'was it resized'), ((64, 128), 'EXIF'), ((128, 64), None)])
def test_an_image_of_another_size_than_annotated(folder, shape, says):
    path = images(folder)[1]
    data = json.loads((folder / 'annotations/train.json').read_text())
    for image in data['images']:
        if image['file_name'] == path.name:
            image.update(height=128, width=64)
            for annotation in data['annotations']:
                annotation['segmentation'] = []
    (folder / 'annotations/train.json').write_text(json.dumps(data))
    cv2.imwrite(str(path), np.zeros((*shape, 3), np.uint8))
    if says is None:
        dataset(folder)[1]
    else:
        with pytest.raises(
            ValueError,
            match=f'image {re.escape(str(path))}: is {shape[1]} x {shape[0]} pixels, but '
            f'64 x 128 in the annotations .*{says}',
        ):
            dataset(folder)[1]


@pytest.mark.parametrize('ending', ['.jpg', '.png'])
def test_cut_off(ending):
    data = picture(ending)
    thumbnail = picture('.jpg', 16)
    if ending == '.jpg':  # a segment with a picture of its own, as cameras write, and a film behind
        segment = b'Exif\0\0' + thumbnail
        data = data[:2] + b'\xff\xe1' + (len(segment) + 2).to_bytes(2, 'big') + segment + data[2:]
    assert cut_off(data) == '' and cut_off(data + bytes(100)) == '' and cut_off(data + bytes(10**5)) == ''
    for length in (len(data) - 12, len(data) // 2, len(data) // 3, 40):
        assert 'cut off' in cut_off(data[:length])
    for odd in (b'\xff\xd8', b'\xff\xd8\xff', b'\xff\xd8\xff\xe0\0\0', b'\xff\xd8' + b'\xff' * 50, b'BM', b'GIF89a'):
        cut_off(odd)


def test_met_in_a_training(folder, tiny_config, tmp_path, capsys):
    train = load_tool('tools/train.py')
    path = images(folder)[4]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    words = [str(tiny_config), '--work-dir', str(tmp_path / 'run')]
    options = [
        '--cfg-options',
        f'train_dataloader.dataset.data_root={folder}/',
        'randomness.seed=1',
        'train_cfg.max_epochs=2',
        'train_cfg.val_interval=9',
    ]
    assert run_main(lambda: train.main([*words, *options])) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f'error: ValueError: image {path}: cannot be read as an image') and said.endswith(
        '--cfg-options train_dataloader.dataset.skip_broken=0.01'
    )
    saved = re.search(r'saved to (\S+);', said)
    if saved is None:  # met in the first iteration
        assert 'To train without such images' in said
    assert run_main(lambda: train.main([*words, '--resume', *options])) == 1
    assert f'image {path}' in capsys.readouterr().err
    train.main([*words, '--resume', *options, 'train_dataloader.dataset.skip_broken=0.3'])
    log = '\n'.join(path.read_text() for path in (tmp_path / 'run').glob('*/*.log'))
    assert log.count('1 of 6 images are broken so far, another sample is taken') == 1
    assert (tmp_path / 'run/epoch_2.pth').is_file()
