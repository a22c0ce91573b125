"""A data set of one's own format: trained with, and evaluated against its own objects as COCO's file would be."""

import inspect
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from mmdet.datasets import BaseDetDataset

CLASSES = ('circle', 'square', 'triangle')


class Lines(BaseDetDataset):
    """A line for each object."""

    METAINFO = dict(classes=CLASSES)

    def load_data_list(self):
        images = {}
        for line in open(self.ann_file):
            path, size, box, label, mask = json.loads(line)
            image = images.setdefault(path, dict(img_id=path, img_path=path, height=size, width=size, instances=[]))
            image['instances'].append(dict(bbox=box, bbox_label=label, ignore_flag=0, mask=mask))
        return list(images.values())


@pytest.fixture
def lines(tiny_shapes, tmp_path):
    """Files of lines, of the shapes; the areas of the shapes' file are those of its boxes."""
    for part in ('train', 'val'):
        data = json.loads((tiny_shapes / f'annotations/{part}.json').read_text())
        names = {one['id']: one['name'] for one in data['categories']}
        files = {one['id']: str(tiny_shapes / part / one['file_name']) for one in data['images']}
        out = []
        for one in data['annotations']:
            x, y, width, height = one['bbox']
            one['area'] = width * height
            label = CLASSES.index(names[one['category_id']])
            out.append([files[one['image_id']], 64, [x, y, x + width, y + height], label, one['segmentation']])
        (tmp_path / f'{part}.txt').write_text('\n'.join(map(json.dumps, out)))
        (tmp_path / f'{part}.json').write_text(json.dumps(data))
    return tmp_path


def train(folder, name):
    words = [sys.executable, str(ROOT / 'tools/train.py'), f'{name}.py', '--work-dir', name]
    done = subprocess.run(words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return [json.loads(line) for line in next((folder / name).glob('*/vis_data/scalars.json')).open()]


def test_train_and_evaluate(lines, tiny_config):
    (lines / 'parts.py').write_text(
        'import json\nfrom mmdet.datasets import BaseDetDataset\nfrom mmdet.registry import DATASETS\n'
        f'CLASSES = {CLASSES}\n@DATASETS.register_module()\n{inspect.getsource(Lines)}'
    )
    config = lines / 'own.py'
    config.write_text(
        f"""_base_ = '{tiny_config}'
custom_imports = dict(imports=['parts'])
train_dataloader = dict(
    dataset=dict(type='Lines', ann_file='{lines}/train.txt', data_prefix=dict(_delete_=True), data_root='')
)
val_dataloader = dict(
    dataset=dict(
        type='Lines',
        ann_file='{lines}/val.txt',
        data_prefix=dict(_delete_=True),
        data_root='',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(64, 64)),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
            ),
        ],
    )
)
val_evaluator = dict(ann_file=None, outfile_prefix='{lines}/out')
train_cfg = dict(max_epochs=1, val_interval=1)
"""
    )
    plain = lines / 'plain.py'
    plain.write_text(
        f"""_base_ = '{tiny_config}'
val_evaluator = dict(ann_file='{lines}/val.json')
train_cfg = dict(max_epochs=1, val_interval=1)
"""
    )
    own, other = (train(lines, name) for name in ('own', 'plain'))
    assert [one.get('loss') for one in own] == [one.get('loss') for one in other]
    last, same = own[-1], other[-1]
    kept = [key for key in same if key.startswith('coco/')]
    assert [last[key] for key in kept] == [same[key] for key in kept] and len(kept) == 12
    assert len(json.loads((lines / 'out.gt.json').read_text())['annotations']) > 5


def test_what_went_wrong_is_said_with_the_image(lines):
    data = Lines(ann_file=str(lines / 'train.txt'), pipeline=[lambda results: {}['gone']])
    path = data.get_data_info(0)['img_path']
    with pytest.raises(ValueError, match=re.escape(path)):
        data[0]
    assert data.get_cat_ids(0) == [one['bbox_label'] for one in data.get_data_info(0)['instances']]
    with pytest.raises(ValueError, match='^Lines: skip_broken must be a share'):
        Lines(ann_file=str(lines / 'train.txt'), skip_broken=2)
