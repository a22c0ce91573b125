"""mmdet data check: every fault is found and said, and a file without them can be written."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
from conftest import load_tool
from PIL import Image

from mmdet.analysis.dataset import main
from mmdet.analysis.survey import recommend, survey
from mmdet.datasets import CocoDataset


def write(folder, change=lambda data: None, name='a.json'):
    """Six images of noise, each with three objects of two categories, and what ``change`` makes of their file."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, 7):
        if not (folder / f'{i}.png').is_file():
            cv2.imwrite(str(folder / f'{i}.png'), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        images.append(dict(id=i, file_name=f'{i}.png', width=64, height=48))
        for k in range(3):
            box = [4 + 16 * k, 6 + i, 12, 15]
            x, y, w, h = box
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i,
                    category_id=1 + k % 2,
                    bbox=box,
                    area=180,
                    iscrowd=0,
                    segmentation=[polygon],
                )
            )
    data = dict(images=images, annotations=annotations, categories=[dict(id=1, name='red'), dict(id=2, name='white')])
    change(data)
    (folder / name).write_text(json.dumps(data))
    return str(folder / name)


def each(key, **change):
    return lambda data: [one.update(change) for one in data[key]]


def first(key, **change):
    return lambda data: data[key][0].update(change)


def copy_object(data):
    data['annotations'].append(dict(data['annotations'][0], id=50))


def corners(data):
    for one in data['annotations']:
        x, y, w, h = one['bbox']
        one['bbox'] = [x, y, x + w, y + h]


def count_from_0(data):
    for one in data['annotations']:
        one['category_id'] -= 1


def same_name(data):
    data['categories'].append(dict(id=3, name='red'))
    data['annotations'][0]['category_id'] = 3


#: what is done to the file, what is said of it, its severity, and the numbers of images and objects that are left
CASES = [
    (lambda data: None, 'nothing is wrong', 0, (6, 18)),
    (first('annotations', area='big'), r'area must be .*\n +annotations\[0\] \(id 1\): .* got .big', 2, (6, 17)),
    (first('annotations', bbox=[1, 2, 3]), r'refused +1 annotations: bbox must be', 2, (6, 17)),
    (each('annotations', iscrowd='x'), r'refused +18 annotations: iscrowd must be 0 or 1: ', 2, (6, 0)),
    (
        first('annotations', image_id=99),
        r'odd +1 objects: of no image of the file: .*\n +annotations\[0\] \(id 1\)',
        1,
        (6, 17),
    ),
    (first('annotations', category_id=9), 'odd +1 objects: of no category', 1, (6, 17)),
    (first('annotations', bbox=[90, 90, 5, 5]), 'odd +1 objects: boxes without area or outside', 1, (6, 17)),
    (first('annotations', area=0), 'odd +1 objects: boxes without area', 1, (6, 18)),
    (first('annotations', segmentation=[]), 'odd +1 objects: without a mask, ignored', 1, (6, 18)),
    (first('annotations', segmentation=[[1, 2], [1, 2, 3, 4, 9, 9]]), 'odd +1 polygons of fewer', 1, (6, 18)),
    (copy_object, r'odd +1 objects that are there twice: .*\n +annotations\[18\] \(id 50\)', 1, (6, 18)),
    (corners, r'refused +1 each bbox must be', 2, (6, 18)),
    (count_from_0, 'refused +1 category_id is counted from another number', 2, (6, 18)),
    (same_name, 'refused +1 categories 1 and 3 have the same name', 2, (6, 18)),
    (
        lambda data: data['categories'].append(dict(id=3, name='blue')),
        "odd +1 classes without objects: .*\n +'blue'",
        1,
        (6, 18),
    ),
    (first('images', id=2), 'refused +1 images that have the same id', 2, (4, 12)),
    (first('images', width=None), r'refused +1 images without height and width: .*\n +1.png\n', 2, (6, 18)),
    (lambda data: [one.pop('height') for one in data['images']], 'refused +6 images without height', 2, (6, 18)),
    (first('annotations', bbox=['4', '7', '12', '15']), 'refused +1 annotations: bbox must be', 2, (6, 18)),
    (first('annotations', bbox=[[4, 7, 12, 15]]), 'refused +1 annotations: bbox must be', 2, (6, 18)),
    (first('annotations', bbox=None), 'refused +1 annotations: bbox must be', 2, (6, 18)),
    (lambda data: data['annotations'][0].pop('bbox'), "refused +1 annotations has no 'bbox'", 2, (6, 18)),
    (first('annotations', category_id='white'), 'odd +1 objects: of no category', 1, (6, 18)),
    (first('annotations', segmentation=[4, 7, 16, 7, 16, 22]), 'refused +1 .* must be a list of polygons', 2, (6, 18)),
    (first('annotations', segmentation=[[[4, 7], [16, 7], [16, 22]]]), 'refused +1 .* must hold numbers', 2, (6, 18)),
    (first('annotations', segmentation=[['4', '7', '16', '7', '9', '22']]), 'refused +1 .* must hold', 2, (6, 18)),
    (
        first('annotations', segmentation=[dict(size=[48, 64], counts=[0, 48 * 64])]),
        'refused +1 .* must be a list of polygons',
        2,
        (6, 18),
    ),
    (first('images', width=60), 'refused +1 images: of another size than annotated', 2, (5, 15)),
    (first('images', file_name='gone.png'), 'refused +1 images: missing', 2, (5, 15)),
    (first('images', file_name='broken.png'), 'refused +1 images: unreadable', 2, (5, 15)),
    (first('images', file_name='2.png'), 'odd +1 images that are listed twice', 1, (5, 18)),
    (
        first('images', file_name='copy.png'),
        r'odd +1 pictures that are there twice: .*\n.*2.png = .*copy.png',
        1,
        (6, 18),
    ),
    (lambda data: data['annotations'].pop(), ' 0 |nothing is wrong', 0, (6, 17)),
    (lambda data: [data['annotations'].pop() for _ in range(3)], ' +1 images without objects', 0, (6, 15)),
]


@pytest.mark.parametrize('change, words, severity, left', CASES)
def test_each_kind_is_found_and_mended(tmp_path, capsys, change, words, severity, left):
    (tmp_path / 'broken.png').write_bytes(b'no image')
    path = write(tmp_path)
    shutil.copy(tmp_path / '2.png', tmp_path / 'copy.png')
    write(tmp_path, change)
    out = tmp_path / 'fixed.json'
    assert main([path, str(tmp_path), '--fix', str(out)]) == severity
    text = capsys.readouterr().out
    assert re.search(words, text), text
    fixed = json.loads(out.read_text())
    assert (len(fixed['images']), len(fixed['annotations'])) == left
    assert survey(str(out), str(tmp_path)).severity < 2
    classes = [category['name'] for category in fixed['categories']]
    data = CocoDataset(ann_file=str(out), data_prefix=dict(img=str(tmp_path)), metainfo=dict(classes=classes))
    assert sum(len(data.get_data_info(i)['instances']) for i in range(len(data))) == left[1]


def test_what_is_right_stays_as_it_is(tmp_path):
    path = write(tmp_path)
    main([path, str(tmp_path), '--fix', str(tmp_path / 'fixed.json')])
    assert json.loads((tmp_path / 'fixed.json').read_text()) == json.loads((tmp_path / 'a.json').read_text())
    turned = write(tmp_path, corners, 'b.json')
    main([turned, str(tmp_path), '--fix', str(tmp_path / 'fixed.json')])
    assert json.loads((tmp_path / 'fixed.json').read_text()) == json.loads((tmp_path / 'a.json').read_text())


@pytest.mark.parametrize(
    'text, words', [('[1]', 'not in COCO'), ('{', 'not JSON'), ('{"images": []}', "'categories' is")]
)
def test_what_is_no_annotation_file(tmp_path, capsys, text, words):
    path = tmp_path / 'a.json'
    path.write_text(text)
    try:
        assert main([str(path)]) == 2
    except ValueError as error:
        assert words in str(error)
    else:
        assert words in capsys.readouterr().out
    with pytest.raises(ValueError, match=words):
        main([str(path), '--fix', str(tmp_path / 'fixed.json')])
    assert not (tmp_path / 'fixed.json').exists()


def test_what_cannot_be_put_right_is_not_written(tmp_path):
    path = write(tmp_path, each('annotations', image_id=500))
    with pytest.raises(ValueError, match='is the id of none of images.*cannot be put right'):
        main([path, '--fix', str(tmp_path / 'fixed.json')])
    assert not (tmp_path / 'fixed.json').exists()


def test_sizes_of_images_on_their_side(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(tmp_path / 'side.jpg', exif=exif)
    path = write(tmp_path, first('images', file_name='side.jpg', width=-1, height=-1))
    main([path, '--fix', str(tmp_path / 'fixed.json')])
    image = json.loads((tmp_path / 'fixed.json').read_text())['images'][0]
    assert (image['width'], image['height']) == (48, 64)  # as it is read


def test_page(tmp_path, capsys):
    path = write(tmp_path, lambda data: (copy_object(data), first('categories', name='<b>red')(data)))
    main([path, '--html', str(tmp_path / 'page.html')])
    text = (tmp_path / 'page.html').read_text()
    assert '&lt;b&gt;red' in text and '<b>red' not in text
    assert text.count('<figure>') == 1 and 'data:image/jpeg;base64' in text and '1.png: 1 odd' in text
    for words in ('objects that are there twice', 'objects by class', 'objects an image', '64 x 48 (6)'):
        assert words in text


def test_the_data_of_a_config(tiny_config, tiny_shapes, tmp_path, capsys):
    check = load_tool('tools/misc/check_dataset.py').main
    assert check(['--config', str(tiny_config)]) == 0
    text = capsys.readouterr().out
    assert 'train.json: nothing is wrong' in text and 'val.json: nothing is wrong' in text
    shapes = tmp_path / 'shapes'
    shutil.copytree(tiny_shapes, shapes)
    shutil.copy(shapes / 'train/000001.png', shapes / 'val/000003.png')
    options = [f'{part}_dataloader.dataset.data_root={shapes}' for part in ('train', 'val')]
    assert check(['--config', str(tiny_config), '--cfg-options', *options]) == 1
    assert re.search(r'odd +1 pictures of the training data in the validation data', capsys.readouterr().out)


def test_recommendation():
    assert recommend([0.02, 0.04, 0.09]).startswith('alike') and recommend([0.2]).startswith('between')
    assert 'CBN+GN' in recommend([0.05, 0.31]) and recommend([0.05, 0.31]).startswith('unlike')


@pytest.mark.parametrize('words', [[], ['a.json', 'x', '--config', 'c.py'], ['--config', 'c.py', '--fix', 'o.json']])
def test_what_is_asked_for(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert 'error: ' in capsys.readouterr().err
