"""mmdet train --data: what is found in folders as tools export them, the config made of it, and its training."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT

from mmdet.cli.own_data import find_data, part_of
from mmdet.cli.train import main, parse_args, words_for
from mmdet.config import load_config, saved_config
from mmdet.run.ending import run_main

REAL = ROOT.parent / 'shared' / 'data'
SHORT = ['train_cfg.max_epochs=1', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
#: the files of an export, and the folders of its images, by part
ROBOFLOW = {part: f'{part}/_annotations.coco.json' for part in ('train', 'valid', 'test')}, {}
OWN = {'train': 'annotations/train.json', 'val': 'annotations/val.json'}, {}
ALONE = {'train': 'annotations/instances_default.json'}, {'train': 'images'}


def coco(number, name='{}.png', first=0, masks=True, size=(48, 64)):
    """Annotations of ``number`` images with two objects each."""
    images, annotations = [], []
    for i in range(number):
        images.append(dict(id=i, file_name=name.format(first + i), height=size[0], width=size[1]))
        for k, (x, y, w, h) in enumerate([(4, 4, 16, 20), (30, 10, 24, 24)]):
            mask = [[x, y, x + w, y, x + w, y + h, x, y + h]] if masks else []
            box = dict(bbox=[x, y, w, h], area=w * h, segmentation=mask)
            annotations.append(dict(box, id=len(annotations) + 1, image_id=i, category_id=k, iscrowd=0))
    return dict(images=images, annotations=annotations, categories=[dict(id=0, name='red'), dict(id=1, name='white')])


@pytest.fixture
def export(tmp_path):
    """Write a data set as (files, folders) say; ``change(part, annotations)`` may return another text for the file."""

    def write(layout=OWN, change=lambda part, data: None, number=5, **kwargs):
        files, folders = layout
        root = tmp_path / 'My cells.v2i.coco'
        for first, (part, path) in enumerate(files.items()):
            data = coco(number, first=10 * first, **kwargs)
            folder = root / folders.get(part, part)
            folder.mkdir(parents=True, exist_ok=True)
            for image in data['images']:
                noise = np.random.default_rng(0).integers(0, 255, (image['height'], image['width'], 3))
                cv2.imwrite(str(folder / image['file_name']), noise)
            text = change(part, data) or json.dumps(data)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        return root

    return write


def find(root, validate=True, **chosen):
    return find_data(str(root), chosen, root / 'out', validate)


# -- what is found -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'path, part',
    [
        ('annotations/instances_train2017.json', 'train'),
        ('annotations/instances_Validation.json', 'val'),
        ('valid/_annotations.coco.json', 'val'),
        ('train/val.json', 'val'),
        ('TEST/a.json', 'test'),
        ('annotations/instances_default.json', ''),
        ('annotations/trainval.json', ''),
        ('strainer/value.json', ''),
    ],
)
def test_part_by_words(path, part):
    assert part_of(path) == part


@pytest.mark.parametrize(
    'layout, found',
    [
        (ROBOFLOW, dict(train='train', val='valid', test='test')),
        (OWN, dict(train='train', val='val')),
        (
            ({'train': 'annotations/instances_train2017.json', 'val': 'annotations/instances_val2017.json'},
             {'train': 'train2017', 'val': 'val2017'}),
            dict(train='train2017', val='val2017'),
        ),
        (
            ({'train': 'annotations/instances_Train.json', 'val': 'annotations/instances_Validation.json'},
             {'train': 'images/Train', 'val': 'images/Validation'}),
            dict(train='images/Train', val='images/Validation'),
        ),
        (({'train': 'train/a.json', 'val': 'val/b.json'}, {'train': 'train/images', 'val': 'val/images'}),
         dict(train='train/images', val='val/images')),
        (({'train': 'in/train/a.json', 'val': 'in/val/a.json'}, {'train': 'in/train', 'val': 'in/val'}),
         dict(train='in/train', val='in/val')),
    ],
)  # fmt: skip
def test_layouts(export, layout, found):
    def same_names(part, data):
        """Images of all parts are called alike, so that only the right folder has the right ones."""
        for i, image in enumerate(data['images']):
            os.rename(where(part) / image['file_name'], where(part) / f'{i}.png')
            image['file_name'] = f'{i}.png'

    def where(part):
        return place / layout[1].get(part, part)

    place = export(layout)
    export(layout, same_names)
    data = find(place)
    assert {part: one.folder for part, one in data.parts.items()} == found
    assert [one.ann_file for one in data.parts.values()] == list(layout[0].values())
    assert data.classes == ('red', 'white') and data.masks and not data.notes
    assert not any(one.data for one in data.parts.values())


def test_one_file_is_split_by_the_names_of_its_images(export):
    root = export(ALONE, number=11)
    first, again = find(root), find(root)
    names = {part: [image['file_name'] for image in one.data['images']] for part, one in first.parts.items()}
    assert names == {part: [image['file_name'] for image in one.data['images']] for part, one in again.parts.items()}
    assert len(names['val']) == 2 and len(names['train']) == 9 and not set(names['val']) & set(names['train'])
    assert sum(first.parts['train'].objects().values()) == 18
    assert first.notes == ['no annotations for validation: 2 of 11 images are set aside, by the hashes of their names']
    assert list(find(root, validate=False).parts) == ['train']
    reordered = json.loads((root / ALONE[0]['train']).read_text())
    reordered['images'].reverse()
    (root / ALONE[0]['train']).write_text(json.dumps(reordered))
    assert {image['file_name'] for image in find(root).parts['val'].data['images']} == set(names['val'])


def test_copies_of_an_image_stay_on_one_side(export):
    def copies(part, data):
        for i, image in enumerate(data['images']):
            new = f'{i // 3}_png.rf.{i}.png'
            os.rename(root / 'images' / image['file_name'], root / 'images' / new)
            image['file_name'] = new

    root = export(ALONE, number=12)
    export(ALONE, copies, number=12)
    data = find(root)
    sources = [{one['file_name'][0] for one in part.data['images']} for part in data.parts.values()]
    assert not sources[0] & sources[1] and data.parts['val'].images() == 3


@pytest.mark.parametrize(
    'name, copied',
    [
        ('images\\{}.png', False),
        ('images/{}.png', False),
        ('C:\\Users\\me\\export\\{}.png', True),
        ('/data/upload/7/{}.png', True),
    ],
)
def test_names_of_another_machine(export, name, copied):
    def rename(part, data):
        for image in data['images']:
            image['file_name'] = name.format(image['file_name'][:-4])

    data = find(export(({'train': 'result.json', 'val': 'val.json'}, {'train': 'images', 'val': 'images'}), rename))
    train = data.parts['train']
    assert train.folder == ('images' if copied else '') and bool(train.data) == copied
    if copied:
        assert [image['file_name'] for image in train.data['images']] == [f'{i}.png' for i in range(5)]


def test_classes(export):
    """Without Roboflow's root category, by the ids of training; what only validation has comes last."""

    def change(part, data):
        if part == 'train':
            data['categories'] = [dict(id=0, name='cells'), dict(id=2, name='white'), dict(id=1, name='red')]
            data['categories'].append(dict(id=5, name='red'))  # a second one without objects
        else:
            data['categories'] = [dict(id=4, name='blue'), dict(id=1, name='white'), dict(id=2, name='red')]
        for i, one in enumerate(data['annotations']):
            one['category_id'] = 4 if part == 'valid' and not i else 1 + one['category_id']

    data = find(export(ROBOFLOW, change))
    assert data.classes == ('red', 'white', 'blue')
    assert data.notes == [
        "without objects to train on, and no classes: 'cells'",
        "only validation has objects of 'blue'; nothing is learnt of them",
    ]
    added = data.parts['train'].data['categories'][-1]  # a class that the file does not have is an error
    assert added == dict(id=6, name='blue') and not data.parts['val'].data


@pytest.mark.parametrize('share, masks, said', [(1, True, 0), (0.95, True, 0), (0.5, False, 1), (0, False, 0)])
def test_masks(export, share, masks, said):
    def change(part, data):
        for one in data['annotations'][round(share * len(data['annotations'])) :]:
            one['segmentation'] = []

    data = find(export(OWN, change, number=10))
    assert data.masks == masks and len(data.notes) == said


def test_files_that_are_not_used(export):
    root = export(OWN)
    for name in ('all.json', 'out/train.json', 'work_dirs/train.json', '.hidden/train.json', 'train/x.copy.json'):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text((root / 'annotations/val.json').read_text())
    (root / 'annotations/captions_train.json').write_text('{"images": [], "annotations": []}')
    (root / 'annotations/person_keypoints_train2017.json').write_text((root / 'annotations/val.json').read_text())
    (root / 'annotations/train.json').rename(root / 'annotations/instances_train2017.json')
    (root / 'test.json').write_text(json.dumps(dict(images=[], annotations=[], categories=[])))
    data = find(root)
    assert [one.ann_file for one in data.parts.values()] == [
        'annotations/instances_train2017.json',
        'annotations/val.json',
    ]
    assert len(data.notes) == 2 and 'test.json: 0 images, but no object' in data.notes[0]
    assert data.notes[1] == 'annotations not used: all.json, annotations/person_keypoints_train2017.json'


def test_a_file_and_a_folder_that_are_named(export):
    root = export(OWN)
    (root / 'annotations/train_b.json').write_text(json.dumps(coco(3)))
    with pytest.raises(ValueError, match='annotations/train.json and annotations/train_b.json .*ann_file=annotations/'):
        find(root)
    (root / 'train').rename(root / 'val/deep')
    found = find(root, train=dict(ann_file='annotations/train_b.json', folder='val/deep')).parts['train']
    assert (found.ann_file, found.folder, found.images()) == ('annotations/train_b.json', 'val/deep', 3)
    (root / 'annotations/train_b.json').write_text((root / 'annotations/train.json').read_text())
    assert find(root).parts['train'].images() == 5  # the same file twice is no question


def emptied(part, data):
    data['annotations'].clear()


@pytest.mark.parametrize(
    'spoil, error, says',
    [
        (lambda root: root.rename(root.parent / 'gone'), FileNotFoundError, 'coco: no such folder'),
        (lambda root: [one.unlink() for one in root.rglob('*.json')], FileNotFoundError, 'Export the data set as COCO'),
        (
            lambda root: (root / 'annotations/train.json').unlink(),
            FileNotFoundError,
            'no annotations to train on; .*val',
        ),
        (lambda root: (root / 'annotations/train.json').write_text('{"images": ['), ValueError, 'train.json: not JSON'),
        (lambda root: (root / 'train/4.png').unlink(), FileNotFoundError, "'4.png' .*train/4.png and .*/4.png, and"),
        (lambda root: (root / 'train').rename(root / 'other'), None, ''),
        (
            lambda root: [one.unlink() for one in (root / 'train').iterdir()],
            FileNotFoundError,
            r"image '0.png' is not there: tried .+/0.png and .+/0.png, .*data_prefix.img=FOLDER",
        ),
    ],
)
def test_what_is_wrong_is_said(export, spoil, error, says):
    root = export(({**OWN[0], 'test': 'test.json'}, {}))
    spoil(root)
    if error is None:
        assert find(root).parts['train'].folder == 'other'
        return
    with pytest.raises(error, match=says):
        find(root)


def test_a_test_without_images_is_left_out(export):
    root = export(ROBOFLOW)
    for path in (root / 'test').glob('*.png'):
        path.unlink()
    data = find(root)  # without which one can train
    assert list(data.parts) == ['train', 'val'] and 'test/_annotations.coco.json: its image' in data.notes[0]


def test_nothing_to_learn_or_to_set_aside(export):
    with pytest.raises(ValueError, match='default.json: 5 images, but no object .* nothing to learn'):
        find(export(ALONE, emptied))
    with pytest.raises(ValueError, match='default.json: there are no annotations for validation, and only 1 '):
        find(export(ALONE, number=1))
    validated = find(export(OWN, lambda part, data: emptied(part, data) if part == 'val' else None))
    assert 'not used' in validated.notes[0] and validated.parts['val'].ann_file == 'annotations/train.json'


@pytest.mark.parametrize(
    'files, says',
    [
        (
            ['ImageSets/Main/trainval.txt', 'Annotations/a.xml'],
            'convert voc .* --split trainval --classes NAME ... --out .*/trainval',
        ),
        (['data.yaml', 'labels/a.txt', 'labels/b.txt'], 'look like YOLO. Export the data set as COCO'),
        (['a.json', 'b.json'], 'a.json is JSON of another kind'),
    ],
)
def test_other_formats(tmp_path, files, says):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"shapes": []}')
    with pytest.raises(FileNotFoundError, match=says):
        find(tmp_path)
    with pytest.raises(FileNotFoundError, match='is a file; give the folder'):
        find(tmp_path / files[0])


@pytest.mark.skipif(not REAL.exists(), reason='the real data sets are not beside the checkout')
@pytest.mark.parametrize('name, images, classes, masks', [('bccd', 292, 3, False), ('nuclei', 428, 1, True)])
def test_real_data(name, images, classes, masks):
    data = find_data(str(REAL / name), {}, REAL / 'out')
    assert list(data.parts) == ['train', 'val'] and data.parts['train'].images() == images
    assert len(data.classes) == classes and data.masks == masks and not data.notes


# -- the config ----------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path, monkeypatch, capsys):
    """Run mmdet train --data ROOT --only-config without CUDA; the config, the file's text and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)

    def run(root, *words):
        monkeypatch.setattr(sys, 'argv', ['mmdet train'])
        assert main(['--data', str(root), '--only-config', *words]) == 0
        said = capsys.readouterr().out
        path = re.search(r'(?:written to +)(.*\.py)', said).group(1)
        return load_config(path), Path(path).read_text(), said

    return run


@pytest.fixture
def without_timm(monkeypatch):
    monkeypatch.setattr('mmdet.cli.own_config.IMAGENET', ('timm', 'no_such_package'))


def test_small_config_without_cuda(made, export):
    """From ImageNet weights that a package brings, or else from this repository's."""
    root = export(ROBOFLOW)
    cfg, text, said = made(root)
    assert 'mask-rcnn_efficientnet-lite0_fpn_gn_12e, a small one, as there is no CUDA' in said
    checkpoint = cfg.model.backbone.init_cfg.checkpoint
    assert cfg.load_from is None and f'{checkpoint}, in the backbone' in said and 'package://' in checkpoint
    assert cfg.filename.endswith('work_dirs/My_cells_v2i_coco/My_cells_v2i_coco.py')
    assert cfg.work_dir == os.path.dirname(cfg.filename)
    for part, name in dict(train='train', val='valid', test='test').items():
        dataset = cfg[f'{part}_dataloader'].dataset
        assert (dataset.data_root, dataset.ann_file) == (f'{root}/', f'{name}/_annotations.coco.json')
        assert dataset.data_prefix.img == name and dataset.metainfo == dict(classes=('red', 'white'))
    assert cfg.test_evaluator.ann_file == f'{root}/test/_annotations.coco.json'
    assert cfg.test_evaluator.metric == ['bbox', 'segm']
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 2
    # 5 images are 3 iterations: 50 epochs, a tenth of them to warm up
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (50, 5)
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.begin, warm_up.end, warm_up.by_epoch) == (0, 15, False)
    assert steps.milestones == [38] and steps.end == 50  # as 9 of 12
    assert cfg.default_hooks.checkpoint.interval == 5 and cfg.default_hooks.logger.interval == 1
    assert cfg.image_scale == (64, 64) and cfg.val_dataloader.dataset.pipeline[1].scale == (64, 64)
    for line in ("metainfo = dict(classes=('red', 'white'))", '# Warm-up: 15 of 150 iterations', 'metainfo=metainfo'):
        assert line in text
    assert max(map(len, text.splitlines()[1:])) < 121
    assert saved_config(dict(meta=dict(cfg=cfg.pretty_text)), 'its checkpoint').model == cfg.model


def test_the_images_of_the_demo(made):
    """demo/nuclei has what its README says."""
    cfg, _, said = made(ROOT / 'demo' / 'nuclei')
    assert 'train  48      1403     annotations/train.json  train\nval    24      583 ' in said
    for part in ('train', 'val'):
        images = json.loads((ROOT / 'demo' / 'nuclei' / 'annotations' / f'{part}.json').read_text())['images']
        assert {one['file_name'] for one in images} == set(os.listdir(ROOT / 'demo' / 'nuclei' / part))
    assert cfg.model.roi_head.mask_head.num_classes == 1 and cfg.model.backbone.frozen_stages == 4
    readme = (ROOT / 'demo' / 'nuclei' / 'README.md').read_text()
    assert '48 images' in readme and '1403 nuclei' in readme and '24 to validate with 583' in readme


def test_without_the_packages_of_imagenet_weights(made, export, without_timm):
    cfg, _, said = made(export(OWN))
    assert 'small one, as there is no CUDA' in said and cfg.load_from == 'mask-rcnn_r18-half_fpn_cbnplus_24e'
    assert cfg.param_scheduler[1].milestones == [38, 46]  # as 18 and 22 of 24


def test_a_backbone_that_is_drawn_in_several_ways(made, export, tmp_path):
    drawn = [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', val=1, layer='BatchNorm2d')]
    (tmp_path / 'mine.py').write_text(
        f"_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\nmodel = dict(backbone=dict(init_cfg={drawn}))\n"
    )
    _, _, said = made(export(OWN), str(tmp_path / 'mine.py'))
    assert 'as the config says' in said


def test_boxes_alone_make_a_faster_rcnn(made, export):
    root = export(OWN, masks=False)
    cfg, _, said = made(root)
    assert cfg.model.type == 'FasterRCNN' and 'faster-rcnn_eff' in said and cfg.val_evaluator.metric == 'bbox'
    cfg, text, _ = made(root, 'mask-rcnn_r50_fpn_1x_coco')
    assert cfg.model.type == 'FasterRCNN' and cfg.model.roi_head.mask_head is None
    assert cfg.val_evaluator.metric == 'bbox' and 'with_mask=False' in text
    assert cfg.load_from is None


def test_masks_that_only_training_has(made, export):
    def change(part, data):
        for one in data['annotations'] if part == 'val' else ():
            one['segmentation'] = []

    cfg, _, said = made(export(OWN, change))
    assert cfg.model.type == 'MaskRCNN' and cfg.val_evaluator.metric == cfg.test_evaluator.metric == 'bbox'


def test_one_file_is_written_as_two(made, export):
    root = export(ALONE, number=10)
    cfg, text, said = made(root)
    assert 'set aside' in said and 'test_dataloader = val_dataloader' in text
    parts = [json.loads(Path(cfg[f'{part}_dataloader'].dataset.ann_file).read_text()) for part in ('train', 'val')]
    assert [len(part['images']) for part in parts] == [8, 2]
    assert cfg.val_evaluator.ann_file == cfg.test_dataloader.dataset.ann_file == cfg.val_dataloader.dataset.ann_file


@pytest.mark.parametrize(
    'name, batch, rate',
    [
        ('mask-rcnn_r50_fpn_1x_coco', 2, 0.0025),
        ('faster-rcnn_r50-caffe_fpn_90k_coco', 2, 0.0025),  # iterations
        ('mask-rcnn_r50_fpn_ms-poly-3x_coco', 2, 0.0025),  # RepeatDataset
        ('mask_rcnn/mask-rcnn_r50_fpn_8xb8-amp-lsj-200e_coco', 8, 0.01),
    ],
)
def test_configs_that_are_given(made, export, name, batch, rate):
    root = export(OWN)
    cfg, text, said = made(root, name)
    assert cfg.train_dataloader.batch_size == batch and cfg.optim_wrapper.optimizer.lr == rate
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=batch)
    assert cfg.train_cfg.type == 'EpochBasedTrainLoop' and cfg.train_cfg.max_epochs == 50
    warm_up, steps = cfg.param_scheduler
    assert steps.by_epoch and steps.end == 50 and all(30 < milestone < 50 for milestone in steps.milestones)
    assert warm_up.end <= 15 or 'ms-poly' in name
    assert cfg.default_hooks.checkpoint.get('by_epoch', True) and cfg.log_processor.by_epoch
    inner = cfg.train_dataloader.dataset
    inner = inner.get('dataset', inner)
    assert inner.ann_file == 'annotations/train.json' and inner.data_root == f'{root}/'
    assert ('--weights mask-rcnn_r50_fpn_1x_coco' in said) == (name == 'mask-rcnn_r50_fpn_1x_coco')


def test_several_data_sets_become_one_and_colours_of_other_classes_go(made, export, tmp_path):
    (tmp_path / 'mine.py').write_text(
        f"_base_ = '{ROOT}/configs/shapes/mask-rcnn_r18_fpn_bn.py'\n"
        "one = _base_.train_dataloader.dataset\none.update(metainfo=dict(classes=('a',), palette=[(1, 2, 3)]))\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[one, one]))\n"
        'val_evaluator = [_base_.val_evaluator]\n'
        "param_scheduler = [dict(type='CosineAnnealingLR', T_max=7, eta_min=0.0, end=7)]\n"
    )
    cfg, text, _ = made(export(OWN), 'mine.py')
    assert cfg.train_dataloader.dataset.type == 'CocoDataset' and "_base_ = '/" in text
    assert cfg.train_dataloader.dataset.metainfo == dict(classes=('red', 'white'), palette=None)
    assert cfg.val_evaluator[0].ann_file.endswith('annotations/val.json')
    assert [one.T_max for one in cfg.param_scheduler] == [cfg.train_cfg.max_epochs] == [50]


def test_settings_win_and_are_in_the_file(made, export):
    words = [
        'train_dataloader.batch_size=4',
        'train_cfg.max_epochs=6',
        'train_dataloader.dataset.pipeline.2.scale=(9,9)',
    ]
    words += ['model.neck.out_channels=128', 'default_hooks.logger.interval=7', "visualizer.name='x y'"]
    root = export(OWN, number=8)
    cfg, text, _ = made(root, 'mask-rcnn_r50_fpn_1x_coco', '--gpus', '2', '--cfg-options', *words)
    assert cfg.train_dataloader.batch_size == 4 and cfg.model.neck.out_channels == 128
    assert cfg.optim_wrapper.optimizer.lr == 0.01 and cfg.auto_scale_lr.base_batch_size == 8  # 2 processes
    assert cfg.train_cfg.max_epochs == 6 and cfg.param_scheduler[-1].milestones == [4]  # no warm-up in 6 iterations
    assert len(cfg.param_scheduler) == 1 and cfg.default_hooks.logger.interval == 7
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert len(pipeline) == 5 and pipeline[2].scale == (9, 9) and cfg.visualizer.name
    own = ['optim_wrapper.optimizer.lr=0.5', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
    cfg, text, said = made(root, 'faster-rcnn_r50_fpn_1x_coco', '--weights', 'mine', '--cfg-options', *own)
    assert cfg.optim_wrapper.optimizer.lr == 0.5 and cfg.auto_scale_lr == dict(enable=True, base_batch_size=2)
    assert cfg.val_dataloader is None and cfg.load_from == 'mine' and 'set aside' not in said


@pytest.mark.parametrize('side, objects, scale, anchors', [(1600, 40, 512, 2), (400, 300, 400, 8), (900, 60, 512, 2)])
def test_sizes_of_images_and_anchors(made, export, side, objects, scale, anchors):
    """Nuclei's anchors, of 8 to 128 pixels, stay where objects of the smaller image fit them."""

    def change(part, data):
        for one in data['annotations']:
            one.update(bbox=[5, 5, objects, objects], area=objects**2, segmentation=[[5, 5, objects, 5, objects, 60]])

    cfg, _, _ = made(export(OWN, change, number=2, size=(side // 2, side)))
    assert cfg.image_scale == (scale, scale) and cfg.model.rpn_head.anchor_generator.scales == [anchors]


def test_with_cuda(made, export, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg, _, said = made(export(OWN))
    assert cfg.load_from == 'mask-rcnn_r50_fpn_1x_coco' and 'as there is CUDA' in said
    assert cfg.model.backbone.depth == 50 and cfg.model.backbone.init_cfg is None


# -- the file, once it is there ------------------------------------------------------------------------------------


def test_an_edited_file_stays(made, export, capsys, tmp_path):
    root = export(ALONE, number=10)
    cfg, text, _ = made(root)
    assert made(root)[1] == text  # the same again is no question
    path = Path(cfg.filename)
    path.write_text(text.replace('batch_size=2', 'batch_size=1'))
    for words in ([], ['--cfg-options', 'train_dataloader.batch_size=4']):
        assert run_main(lambda words=words: main(['--data', str(root), '--only-config', *words])) == 1
        said = capsys.readouterr().err
        assert f'{path} is there already' in said and f'mmdet train {path}' in said and '--force' in said
    assert 'batch_size=1' in path.read_text()
    words = ['--data', str(root), '--only-config']
    assert main([*words, '--resume']) == 0 and 'stays as it is' in capsys.readouterr().out
    assert 'batch_size=1' in path.read_text()
    assert main([*words, '--force']) == 0 and path.read_text() == text
    # as much for other data: the file would be the same, the images set aside are others
    data = json.loads((root / ALONE[0]['train']).read_text())
    data['annotations'] = data['annotations'][2:]
    (root / ALONE[0]['train']).write_text(json.dumps(data))
    assert run_main(lambda: main(words)) == 1
    assert main([*words, '--work-dir', 'other']) == 0 and (tmp_path / 'other/My_cells_v2i_coco.py').is_file()


def test_a_process_that_is_started_again_takes_the_file(made, export, monkeypatch):
    root = export(OWN)
    cfg, text, _ = made(root)
    Path(cfg.filename).write_text(text + '# edited\n')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert main(['--data', str(root), '--only-config', '--launcher', 'pytorch']) == 0
    assert Path(cfg.filename).read_text() == text + '# edited\n'


def test_nothing_is_written_of_a_config_that_would_not_run(made, export, tmp_path, capsys):
    root = export(OWN)
    for options, says in (
        (['model.neck.out_chanels=3'], "nearest: 'out_channels'"),
        (['train_cfg.max_epochs=0'], 'train_cfg.max_epochs must be a whole number of 1 or more, got 0'),
    ):
        assert run_main(lambda o=options: main(['--data', str(root), '--only-config', '--cfg-options', *o])) == 1
        assert says in capsys.readouterr().err
    base = str(ROOT / 'configs/_base_/models/mask-rcnn_r50_fpn.py')
    assert run_main(lambda: main([base, '--data', str(root)])) == 1
    assert "has no dict 'train_dataloader'" in capsys.readouterr().err
    assert not list(tmp_path.rglob('work_dirs/*/*.py'))


@pytest.mark.parametrize('words, says', [([], 'config, or --data'), (['x', '--force'], 'need --data')])
def test_command_lines_that_make_no_sense(words, says, capsys):
    with pytest.raises(SystemExit):
        parse_args(words)
    assert says in capsys.readouterr().err


def test_the_command_line_that_is_left():
    args = parse_args('base --data d --force --work-dir w --gpus 2 --amp --debug --resume a.pth'.split())
    words = words_for('made.py', {'a.b': (1, 2), 'c': None}, args)
    again = parse_args(words)
    assert again.config == 'made.py' and again.data is None and not again.force and again.work_dir is None
    assert (again.gpus, again.amp, again.debug, again.resume) == (2, 'auto', True, 'a.pth')
    assert again.cfg_options == {'a.b': (1, 2), 'c': None}
    assert words_for('made.py', {}, parse_args('--data d --weights x --cfg-options a=1'.split())) == ['made.py']


def test_resumed_before_its_first_checkpoint_a_run_starts_from_its_weights(made, export, monkeypatch, without_timm):
    cfg, _, _ = made(export(OWN))
    run = []
    monkeypatch.setattr(
        'mmdet.cli.training.DetRunner.from_cfg', lambda cfg: run.append(cfg) or SimpleNamespace(train=lambda: None)
    )
    assert main([cfg.filename, '--resume']) == 0
    assert run[0].load_from == 'mask-rcnn_r18-half_fpn_cbnplus_24e' and not run[0].resume


# -- training ------------------------------------------------------------------------------------------------------


def test_train_and_resume(export, tmp_path, monkeypatch, capfd, tiny_config):
    """From a Roboflow export to AP; the config that was written is the one that is run, and goes on."""
    root = export(ROBOFLOW, number=4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['mmdet train'])
    words = [str(tiny_config), '--data', str(root)]
    assert run_main(lambda: main([*words, '--cfg-options', *SHORT])) == 0
    said = capfd.readouterr().out
    work_dir = tmp_path / 'work_dirs/My_cells_v2i_coco_tiny'
    path = work_dir / 'My_cells_v2i_coco_tiny.py'
    assert (work_dir / 'epoch_1.pth').is_file() and 'coco/segm_mAP' in said
    assert list(work_dir.glob('best_coco_bbox_mAP_epoch_1.pth'))
    assert path.read_text().startswith('# Made by mmdet train --data')  # not the merged one of mmengine
    assert 'Epoch(train) [1][2/2]' in said and 'warm-up' not in said
    more = ['train_cfg.max_epochs=2', 'auto_scale_lr.enable=False', 'auto_scale_lr.base_batch_size=16']
    assert 'is meant for' not in said
    assert run_main(lambda: main([*words, '--resume', '--cfg-options', *more])) == 0
    said = capfd.readouterr().out
    assert 'WARNING - learning rate 0.02 is meant for 16 images a batch, here are 2' in said
    assert 'resumed epoch: 1' in said and (work_dir / 'epoch_2.pth').is_file() and 'max_epochs=1' in path.read_text()


@pytest.mark.slow
def test_two_processes_and_inference(export, tmp_path):
    """The rate is that of both processes' batch; the checkpoint serves inference alone."""
    root = export(ALONE, number=10)
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(ROOT)}
    words = [sys.executable, '-m', 'mmdet', 'train', '--data', root, '--gpus', '2', '--cfg-options', *SHORT]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert '0.04 for 4 images a batch' in said and said.count('written to') == 1
    assert 'batch size of 4 and the current batch size is 4' in said
    assert 'efficientnet-lite0-57934424.pth, in the backbone' in said
    checkpoint = tmp_path / 'work_dirs/My_cells_v2i_coco/epoch_1.pth'
    words = [sys.executable, '-m', 'mmdet', 'predict', root / 'images', checkpoint, '--out-dir', tmp_path / 'seen']
    subprocess.run(words, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert len(list((tmp_path / 'seen/vis').iterdir())) == 10
