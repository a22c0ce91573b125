"""The synthetic shapes: deterministic, visible parts, nothing half-hidden away; the converters' files."""

import json

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from conftest import load_tool

from mmdet.datasets.shapes import LEAST_VISIBLE, make_image


def tool(name):
    return load_tool(f'tools/dataset_converters/{name}.py')


def test_same_seed_same_image():
    (a, x), (b, y), (c, _) = make_image(5), make_image(5), make_image(6)
    assert np.array_equal(a, b) and x == y and not np.array_equal(a, c)


def test_objects():
    numbers, kinds = [], set()
    for seed in range(60):
        image, objects = make_image(seed, 96)
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        masks = [coco_mask.decode(o['segmentation']) for o in objects]
        assert not masks or sum(masks).max() == 1  # what is in front covers what is behind
        for item, mask in zip(objects, masks):
            assert item['area'] == mask.sum() >= 12 and LEAST_VISIBLE < 1
            ys, xs = mask.nonzero()
            assert item['bbox'] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert np.abs(image[mask > 0].mean(0) - image[sum(masks) == 0].mean(0)).max() > 15
            kinds.add(item['category'])
        numbers.append(len(objects))
    assert kinds == {0, 1, 2} and max(numbers) >= 4


def test_backgrounds_tell_images_apart():
    between = []
    for bounds in ((127, 127), (90, 165), (0, 255)):
        means = [make_image(seed, 64, 2, bounds)[0].mean((0, 1)) for seed in range(40)]
        between.append(np.var(means, axis=0).mean())
    assert 2 * between[0] < between[1] < between[2] / 3


def test_make_shapes_writes_whole_sets_or_none(tmp_path, monkeypatch):
    make = tool('make_shapes')
    out = tmp_path / 'set'
    make.main(['--out', str(out), '--train', '3', '--val', '2', '--size', '48'])
    data = json.loads((out / 'annotations' / 'train.json').read_text())
    assert len(data['images']) == 3 and sorted(p.name for p in (out / 'train').iterdir()) == [
        i['file_name'] for i in data['images']
    ]
    with pytest.raises(FileExistsError, match='--force'):
        make.main(['--out', str(out), '--train', '1', '--val', '1'])
    monkeypatch.setattr(make.cv2, 'imwrite', lambda *_: False)
    with pytest.raises(OSError, match='cannot be written'):
        make.main(['--out', str(tmp_path / 'other')])
    assert [p.name for p in tmp_path.iterdir()] == ['set']
    with pytest.raises(SystemExit):
        make.main(['--out', str(tmp_path / 'other'), '--train', '0'])
    with pytest.raises(SystemExit):
        make.main(['--out', str(tmp_path / 'other'), '--background', '165', '90'])


VOC = """<annotation><filename>{}.jpg</filename><size><width>50</width><height>40</height></size>
<object><name>dog</name><difficult>{}</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object></annotation>"""


def test_pascal_voc(tmp_path):
    convert = tool('pascal_voc')
    (tmp_path / 'Annotations').mkdir()
    (tmp_path / 'ImageSets' / 'Main').mkdir(parents=True)
    for name, difficult in (('a', 0), ('b', 1)):
        (tmp_path / 'Annotations' / f'{name}.xml').write_text(VOC.format(name, difficult))
    (tmp_path / 'ImageSets' / 'Main' / 'train.txt').write_text('a\nb\n')
    out = tmp_path / 'out.json'
    command = [str(tmp_path), '--split', 'train', '--out', str(out), '--classes', 'cat', 'dog']
    convert.main(command)
    data = json.loads(out.read_text())
    assert data['images'][0] == dict(id=1, file_name='a.jpg', width=50, height=40)
    assert [a['bbox'] for a in data['annotations']] == [[0, 1, 10, 11]] * 2
    assert [(a['id'], a['category_id'], a['iscrowd']) for a in data['annotations']] == [(1, 2, 0), (2, 2, 1)]
    out.unlink()
    with pytest.raises(ValueError, match="a.xml.*'dog'"):
        convert.main(command[:-1])
    (tmp_path / 'Annotations' / 'b.xml').write_text('<annotation>')
    with pytest.raises(ValueError, match='b.xml.*VOC'):
        convert.main(command)
    with pytest.raises(FileNotFoundError, match='val.txt'):
        convert.main([str(tmp_path), '--split', 'val', '--out', str(out)])
    assert not out.exists()
