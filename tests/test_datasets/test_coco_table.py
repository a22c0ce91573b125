"""Flat arrays say what the file says; the fast way of reading is the plain one; what is kept is never wrong."""

import copy
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import ODD, annotations, mutated, run

from mmdet.datasets import CocoDataset, coco_table
from mmdet.datasets.coco_file import read_coco
from mmdet.datasets.coco_table import CocoTable, read_table
from mmdet.evaluation import CocoMetric

CLASSES = ('a', 'b')
REAL = Path(__file__).resolve().parents[3] / 'shared' / 'data'


def write(folder, data=None):
    path = folder / 'x.json'
    path.write_text(json.dumps(data or annotations()))
    return str(path)


def dataset(path, classes=CLASSES, **kwargs):
    return CocoDataset(
        ann_file=path, data_prefix=dict(img='images'), metainfo=dict(classes=classes), pipeline=[], **kwargs
    )


def same(one, other):
    assert set(one.arrays) == set(other.arrays)
    for name in ('categories', 'supercategories', 'annotated', 'strays'):
        assert getattr(one, name) == getattr(other, name), name
    for name, values in one.arrays.items():
        assert values.dtype == other.arrays[name].dtype and np.array_equal(values, other.arrays[name]), name


def by_hand(path, classes):
    """The images of a file, from its dicts."""
    data = json.loads(Path(path).read_text())
    labels = {
        category['id']: classes.index(category['name'])
        for category in data['categories']
        if category['name'] in classes
    }
    for image in data['images']:
        instances = []
        for one in data['annotations']:
            x, y, w, h = one['bbox']
            inside = min(x + w, image['width']) > max(x, 0) and min(y + h, image['height']) > max(y, 0)
            if (
                one['image_id'] != image['id']
                or one.get('category_id') not in labels
                or one.get('ignore')
                or not inside
                or min(w, h) < 1
                or one.get('area', 1) <= 0
            ):
                continue
            mask = one.get('segmentation') or None
            if isinstance(mask, list):
                mask = [polygon for polygon in mask if len(polygon) > 5 and len(polygon) % 2 == 0] or None
            instances.append(
                dict(
                    bbox=[x, y, x + w, y + h],
                    bbox_label=labels[one['category_id']],
                    mask=mask,
                    ignore_flag=int(one.get('iscrowd') or 0),
                )
            )
        yield dict(
            img_id=image['id'],
            img_path=os.path.join('images', image['file_name']),
            height=image['height'],
            width=image['width'],
            instances=instances,
        )


def spoilt():
    data = annotations()
    odd = [
        dict(bbox=[40, 2, 5, 5]),
        dict(bbox=[2, 2, 0.5, 5]),
        dict(area=0),
        dict(ignore=1),
        dict(category_id=9),
        dict(image_id=77),
        dict(segmentation=[[1, 2, 3, 4], [2, 2, 9, 2, 9, 9]]),
        dict(segmentation=[[1, 2]]),
        dict(segmentation=[]),
        dict(iscrowd=True),
        dict(segmentation=[[0.1, 0.2, 9.99, 1e-9, 5.123, 7], [1048.57, -3.01, 7, 7, 655.36, 0.29]]),
    ]
    for i, change in enumerate(odd):
        data['annotations'].insert(i, dict(data['annotations'][i % 3], id=50 + i, **change))
    del data['annotations'][-1]['segmentation'], data['annotations'][-2]['area']
    for one in data['annotations']:
        one['image_id'] = 2**40 if one['image_id'] == 1 else one['image_id']
    data['images'][0].update(id=2**40, file_name='ä/"b".png')
    return data


@pytest.mark.parametrize(
    'real',
    ['', 'bccd/annotations/train.json', 'nuclei/annotations/train.json', 'coco100/annotations/instances_val2017.json'],
)
def test_what_the_dicts_say(tmp_path, real):
    path = str(REAL / real) if real else write(tmp_path, spoilt())
    if not os.path.isfile(path):
        pytest.skip(f'{path} is not there')
    classes = tuple(category['name'] for category in json.loads(Path(path).read_text())['categories'])[::-1]
    expected = list(by_hand(path, classes))
    for options in (dict(), dict(serialize_data=False)):
        data = dataset(path, classes, test_mode=True, **options)
        assert [dict(data.get_data_info(i)) for i in range(len(data))] == [
            dict(image, sample_idx=i) for i, image in enumerate(expected)
        ]
    kept = [image for image in expected if image['instances'] and min(image['height'], image['width']) >= 24]
    data = dataset(path, classes, filter_cfg=dict(filter_empty_gt=True, min_size=24))
    assert [data.get_data_info(i)['img_id'] for i in range(len(data))] == [image['img_id'] for image in kept]
    same(coco_table._read_fast(path, Path(path).read_bytes()), coco_table._read_plain(path))


@pytest.mark.parametrize('examples', [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_fast_takes_nothing_that_the_plain_way_refuses(tmp_path, examples):
    taken = []

    def check(data):
        path = write(tmp_path, data)
        try:
            fast = coco_table._read_fast(path, Path(path).read_bytes())
        except Exception as error:
            assert isinstance(error, (ValueError, OverflowError, coco_table.msgspec.MsgspecError)), repr(error)
            return
        same(fast, coco_table._read_plain(path))
        taken.append(1)

    run(examples, mutated(annotations(), ODD, most=2), check)
    assert len(taken) > examples / 20  # or the test says nothing


def test_subsets(tmp_path):
    data = dataset(write(tmp_path))
    names = [data.get_data_info(i)['img_id'] for i in range(3)]
    assert [data.get_subset([2, 0]).get_data_info(i)['img_id'] for i in (0, 1)] == [names[2], names[0]]
    last = data.get_subset(-2)
    assert len(last) == 2 and last.get_data_info(0) == dict(data.get_data_info(1), sample_idx=0)
    assert data.get_data_info(-1) == data.get_data_info(2)
    assert len(data.get_subset([])) == 0
    assert last._images.table is data._images.table  # nothing is copied
    for indices, expected in ((2, names[:2]), (-1, names[2:]), ([1], names[1:2])):
        part = dataset(write(tmp_path), indices=indices)
        assert [part.get_data_info(i)['img_id'] for i in range(len(part))] == expected


def test_a_subclass_may_change_the_list(tmp_path):
    class Renamed(CocoDataset):
        def load_data_list(self):
            images = super().load_data_list()
            for image in images:
                image['img_path'] = 'other'
            return images

    class Marked(CocoDataset):
        def filter_data(self):
            for image in super().filter_data():
                image['mark'] = 1
            return self.data_list

    for kind, key, value in ((Renamed, 'img_path', 'other'), (Marked, 'mark', 1)):
        data = kind(ann_file=write(tmp_path), metainfo=dict(classes=CLASSES), pipeline=[])
        assert len(data) == 3 and all(data.get_data_info(i)[key] == value for i in range(3))


class Forgetful(dict):
    def __setitem__(self, *_):
        pass


@pytest.fixture
def reads(monkeypatch):
    """Files of any size are kept; how often one was read."""
    count = []
    read = coco_table._read
    monkeypatch.setattr(coco_table, 'CACHE_FROM', 0)
    monkeypatch.setattr(coco_table, '_IN_USE', Forgetful())
    monkeypatch.setattr(coco_table, '_read', lambda *args: count.append(1) or read(*args))
    return count


@pytest.mark.parametrize('objects', [[], [dict(image_id=1, bbox=[1, 1, 5, 5], category_id=1)]])
def test_kept_without_masks(tmp_path, reads, objects):
    path = write(tmp_path, dict(annotations(), annotations=objects))
    same(read_table(path), read_table(path))
    assert len(reads) == 1


def test_kept_and_used_while_the_file_is_the_same(tmp_path, reads):
    path = write(tmp_path, spoilt())
    first, second = read_table(path), read_table(path)
    same(first, second)
    same(second, coco_table._read_plain(path))
    assert len(reads) == 1 and sorted(os.listdir(tmp_path)) == ['x.json', 'x.json.cache']
    state = os.stat(path)
    write(tmp_path, dict(spoilt(), annotations=[dict(one, bbox=one['bbox'][::-1]) for one in spoilt()['annotations']]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not np.array_equal(read_table(path).arrays['box'], first.arrays['box']) and len(reads) == 2
    read_table(path, cache=False)
    assert len(reads) == 3


def test_small_files_are_not_kept(tmp_path):
    read_table(write(tmp_path))
    assert os.listdir(tmp_path) == ['x.json']


@pytest.mark.parametrize('damage', ['flip', 'cut', 'empty', 'text', 'other', 'folder'])
def test_a_damaged_cache_is_made_anew(tmp_path, reads, damage):
    path = write(tmp_path)
    expected = read_table(path)
    kept = tmp_path / 'x.json.cache'
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == 'folder':
        kept.unlink()
        kept.mkdir()
    elif damage == 'other':  # of other annotations, and whole
        other = tmp_path / 'other'
        other.mkdir()
        read_table(write(other, spoilt()))
        kept.write_bytes((other / 'x.json.cache').read_bytes())
    else:
        kept.write_bytes(dict(flip=data, cut=data[:-100], empty=b'', text=b'no cache')[damage])
    reads.clear()
    same(read_table(path), expected)
    assert len(reads) == 1
    same(read_table(path), expected)
    assert len(reads) == (2 if damage == 'folder' else 1)


def test_where_nothing_can_be_written(tmp_path, reads, monkeypatch):
    said = []
    monkeypatch.setattr(coco_table, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr('tempfile.mkstemp', lambda **_: (_ for _ in ()).throw(PermissionError(13, 'Permission denied')))
    path = write(tmp_path)
    same(read_table(path), coco_table._read_plain(path))
    assert 'x.json.cache: cannot be written (Permission denied)' in said[0] and os.listdir(tmp_path) == ['x.json']


def test_a_disk_that_fills(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(coco_table, 'seal', lambda path: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    same(read_table(write(tmp_path)), coco_table._read_plain(str(tmp_path / 'x.json')))
    assert os.listdir(tmp_path) == ['x.json']


def test_only_one_process_of_a_machine_writes(tmp_path, reads, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    read_table(write(tmp_path))
    assert os.listdir(tmp_path) == ['x.json']


def test_leftovers_of_a_killed_process(tmp_path, reads):
    old, new = tmp_path / '.x.json.abcdefgh.tmp.cache', tmp_path / '.x.json.ijklmnop.tmp.cache'
    for path in (old, new):
        path.write_bytes(b'x')
    os.utime(old, (0, 0))
    read_table(write(tmp_path))
    assert not old.exists() and new.exists()  # another may be writing it


def box_sum(data):
    return sum(sum(instance['bbox']) for i in range(len(data)) for instance in data.get_data_info(i)['instances'])


def test_workers_that_are_no_forks(tmp_path):
    data = dataset(write(tmp_path, spoilt()))
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        assert pool.apply(box_sum, (data,)) == box_sum(data)
    assert copy.deepcopy(data)._images.table is data._images.table


def test_no_numbers_beyond_the_largest(tmp_path):
    for key, value in (
        ('bbox', [0, 0, 2**20 + 1, 5]),
        ('segmentation', [[0, 0, 9, 9, 2**21, 1]]),
        ('segmentation', [[0, 2**21]]),
        ('area', 2.0**41),
    ):
        data = annotations()
        data['annotations'][0][key] = value
        with pytest.raises(ValueError):
            coco_table._read_fast('x.json', json.dumps(data).encode())
        with pytest.raises(ValueError, match=r'x.json: annotations\[0\]'):
            read_table(write(tmp_path, data))


def test_outlines_that_pycocotools_cannot_draw(tmp_path):
    data = annotations()
    data['annotations'][0]['segmentation'] = [[-(2**20), 0, 2**20, 1] * 4]
    with pytest.raises(ValueError):
        coco_table._read_fast('x.json', json.dumps(data).encode())
    for read in (read_coco, read_table):
        with pytest.raises(
            ValueError, match=r'x.json: annotations\[0\] \(id 0\): segmentation is a polygon with an outline of'
        ):
            read(write(tmp_path, data))
    data['annotations'][0]['segmentation'] = [[0, 0, 2**20, 0, 2**20, 2**20, 0, 2**20]]  # just as long
    assert len(read_table(write(tmp_path, data))) == 3


def test_odd_names_of_files(tmp_path, reads):
    for name in ('a**b.json', 'a[b.json', 'ä ö%s\n.json'):
        path = tmp_path / name
        path.write_text(json.dumps(annotations()))
        same(read_table(str(path)), read_table(str(path)))
    assert len(reads) == 3


def test_a_category_without_objects_may_have_the_name_of_another(tmp_path):
    """As in exports whose supercategory is a category, too."""
    data = annotations()
    data['categories'].append(dict(id=7, name='a'))
    path = write(tmp_path, data)
    assert dataset(path).cat2label == {1: 0, 2: 1, 7: 0}
    metric = CocoMetric(path)
    metric.dataset_meta = dict(classes=CLASSES)
    for image in dataset(path, test_mode=True):
        boxes = torch.tensor([one['bbox'] for one in image['instances']], dtype=torch.float32)
        labels = torch.tensor([one['bbox_label'] for one in image['instances']])
        metric.process(
            {},
            [
                dict(
                    img_id=image['img_id'],
                    pred_instances=dict(bboxes=boxes, labels=labels, scores=torch.ones(len(labels))),
                )
            ],
        )
    assert metric.evaluate(3)['coco/bbox_mAP'] == 1
    data['annotations'][0]['category_id'] = 7
    with pytest.raises(ValueError, match="categories 1 and 7 have the same name 'a', and both have objects"):
        read_table(write(tmp_path, data))


def test_read_once_while_it_is_used(tmp_path):
    path = write(tmp_path)
    first = read_table(path)
    assert read_table(path) is first and dataset(path)._images.table is first
    write(tmp_path, dict(annotations(), annotations=[]))
    assert read_table(path) is not first


def test_a_table_without_anything(tmp_path):
    table = read_table(write(tmp_path, dict(images=[], annotations=[], categories=[])))
    assert isinstance(table, CocoTable) and len(table) == 0 and read_coco(str(tmp_path / 'x.json'))['images'] == []
    assert len(dataset(write(tmp_path, dict(annotations(), annotations=[])), test_mode=True)) == 3
