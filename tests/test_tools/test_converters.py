"""What --force of make_shapes may replace; VOC's annotations as tools write them, and their labels in CocoDataset."""

import json

import pytest
from conftest import load_tool
from PIL import Image

from mmdet.datasets import CocoDataset


def tool(name):
    return load_tool(f'tools/dataset_converters/{name}.py')


def test_force_replaces_a_shapes_set_and_nothing_else(tmp_path):
    make, out = tool('make_shapes').main, tmp_path / 'set'
    command = ['--out', str(out), '--val', '1', '--size', '32', '--train']
    make(command + ['3'])
    first = (out / 'train' / '000000.png').read_bytes()
    make(command + ['2', '--force'])
    assert len(list((out / 'train').iterdir())) == 2 and (out / 'train' / '000000.png').read_bytes() == first
    make(command + ['2', '--force', '--seed', '1'])
    assert (out / 'train' / '000000.png').read_bytes() != first
    (out / 'thesis.tex').write_text('years of work')
    with pytest.raises(FileExistsError, match='thesis.tex'):
        make(command + ['2', '--force'])
    assert (out / 'thesis.tex').is_file() and len(list(tmp_path.iterdir())) == 1


def test_difficult_objects_of_voc_are_ignored_regions(tmp_path):
    (tmp_path / 'Annotations').mkdir()
    (tmp_path / 'ImageSets/Main').mkdir(parents=True)
    (tmp_path / 'ImageSets/Main/val.txt').write_text('a\n')
    objects = ''.join(
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>3</xmin><ymin>5</ymin>'
        f'<xmax>22</xmax><ymax>14</ymax></bndbox></object>'
        for name, difficult in (('dog', 0), ('cat', 1))
    )
    (tmp_path / 'Annotations/a.xml').write_text(
        f'<annotation><size><width>50</width><height>40</height></size>{objects}</annotation>'
    )
    out = tmp_path / 'val.json'
    tool('pascal_voc').main([str(tmp_path), '--split', 'val', '--out', str(out), '--classes', 'dog', 'cat'])
    assert json.loads(out.read_text())['images'][0]['file_name'] == 'a.jpg'
    data = CocoDataset(ann_file=str(out), metainfo=dict(classes=('cat', 'dog')), test_mode=True)
    dog, cat = data[0]['instances']
    assert (dog['bbox'], dog['bbox_label'], dog['ignore_flag']) == ([2, 4, 22, 14], 1, 0)
    assert (cat['bbox_label'], cat['ignore_flag']) == (0, 1)


VOC = (
    '<annotation><size><width>50</width><height>40</height></size><object><name>dog</name><difficult>{1}</difficult>'
    '<bndbox><xmin>{0}</xmin><ymin>5</ymin><xmax>22</xmax><ymax>14</ymax></bndbox></object></annotation>'
)


@pytest.mark.parametrize(
    'body',
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><filename>&x;</filename></annotation>',
        '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
        + ''.join(f'<!ENTITY {new} "{f"&{old};" * 50}">' for old, new in zip('abcdefgh', 'bcdefghi'))
        + ']><annotation>&i;</annotation>',
        '<annotation>',
        '',
        '<annotation/>',
        '<annotation><size><width/><height>4</height></size></annotation>',
        '<annotation><size><width>-5</width><height>4</height></size></annotation>',
        '<?xml version="1.0" encoding="no"?><a/>',
        VOC.format('nan', 0),
        VOC.format('', 0),
        VOC.format('1e30', 0),
        VOC.format('3', 2),
    ],
    ids=str,
)
def test_hostile_and_odd_xml_is_refused_with_its_name(tmp_path, body):
    (tmp_path / 'Annotations').mkdir()
    (tmp_path / 'ImageSets/Main').mkdir(parents=True)
    (tmp_path / 'ImageSets/Main/val.txt').write_text('a\n')
    (tmp_path / 'Annotations/a.xml').write_text(body)
    with pytest.raises(ValueError, match='a.xml: not a VOC annotation'):
        tool('pascal_voc').main([str(tmp_path), '--split', 'val', '--out', str(tmp_path / 'val.json')])
    assert not (tmp_path / 'val.json').exists()


def make_voc(root, files, images=(), folders=('Annotations', 'JPEGImages')):
    """Annotations: name -> (filename, inside of size, insides of objects); images of 50 x 40 pixels."""
    for folder, names in zip(folders, (files, images)):
        for name in names:
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name, (filename, size, objects) in files.items():
        body = ''.join(f'<object><name> dog </name>{one}</object>' for one in objects)
        (root / folders[0] / name).write_text(f'<annotation>{filename}<size>{size}</size>{body}</annotation>')
    for name in images:
        Image.new('RGB', (50, 40)).save(root / folders[1] / name, 'PNG' if 'png' in name.lower() else 'JPEG')


def convert(out, *options):
    tool('pascal_voc').main([*map(str, options), '--out', str(out), '--classes', 'dog'])
    data = json.loads(out.read_text())
    return data['images'], data['annotations']


SIZE = '<width>50</width><height>40</height>'
BOX = '<bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>14</ymax></bndbox>'
GOOD = BOX.format(3, 22)


@pytest.mark.parametrize(
    'filename, image, xml',
    [
        ('a.jpg', 'a.jpg', 'a.xml'),
        ('', 'a.PNG', 'a.xml'),
        ('a', 'a.jpeg', 'a.xml'),
        ('IMG_0815.JPG', 'a.jpg', 'a.xml'),
        ('A.JPG', 'a.jpg', 'a.xml'),
        ('C:\\cells\\day 1\\b.jpg', 'b.jpg', '17.xml'),
        ('/home/me/b.jpg', 'day 1/b.jpg', 'a.xml'),
        ('sub/a.jpg', 'sub/a.jpg', 'sub/a.xml'),
        ('a.jpg', 'sub/a.jpg', 'sub/a.xml'),
        ('scan.v2.png', 'scan.v2.jpg', 'scan.v2.xml'),
        ('zelle a\u0308.jpg', 'zelle \u00e4.jpg', 'x.xml'),
    ],
)
def test_images_are_found_by_any_of_their_names(tmp_path, capsys, filename, image, xml):
    make_voc(tmp_path, {xml: (f'<filename>{filename}</filename>', '', [GOOD])}, [image, 'other/z.png'])
    [found], _ = convert(tmp_path / 'out.json', tmp_path)
    assert found == dict(id=1, file_name=image, width=50, height=40)
    output = capsys.readouterr().out
    assert '1 sizes taken from the image (first: ' in output
    assert (f'{filename} is {image})' in output) == (filename not in ('', image))


@pytest.mark.parametrize('size', ['', '<width>0</width><height>0</height>', '<width>50</width>', '<width>?</width>'])
def test_a_size_that_is_none_is_taken_from_the_image_as_it_is_shown(tmp_path, size):
    make_voc(tmp_path, {'a.xml': ('', size, [GOOD])}, ['a.jpg'])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new('RGB', (50, 40)).save(tmp_path / 'JPEGImages/a.jpg', exif=exif)
    [found], _ = convert(tmp_path / 'out.json', tmp_path)
    assert (found['width'], found['height']) == (40, 50)
    (tmp_path / 'JPEGImages/a.jpg').write_bytes(b'none')
    with pytest.raises(ValueError, match='a.xml: .*a.jpg: cannot be read as an image'):
        convert(tmp_path / 'out.json', tmp_path)


def test_what_is_corrected_and_left_out_is_counted(tmp_path, capsys):
    objects = [
        BOX.format(22, 3),
        BOX.format(0, 60),
        BOX.format(70, 80),
        '<polygon/>',
        '<robndbox/>',
        GOOD + '<difficult>Unspecified</difficult><truncated>no</truncated>',
        GOOD + '<difficult>True</difficult>',
    ]
    make_voc(tmp_path, {'a.xml': ('', SIZE, objects), 'gone.xml': ('', SIZE, [GOOD])}, ['a.jpg'])
    images, annotations = convert(tmp_path / 'out.json', tmp_path)
    assert [one['bbox'] for one in annotations] == [[2, 4, 20, 10], [0, 4, 50, 10], [2, 4, 20, 10], [2, 4, 20, 10]]
    assert [one['iscrowd'] for one in annotations] == [0, 0, 0, 1] and len(images) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f'{tmp_path}/out.json: 1 images, 4 objects (1 difficult ones, regions to ignore); ')
    for what in (
        "1 boxes with max below min put in order (first: {}/a.xml, object 1 'dog': xmin 22, xmax 3)",
        "1 boxes without a pixel in the image left out (first: {}/a.xml, object 3 'dog')",
        "2 objects without bndbox left out (first: {}/a.xml, object 4 'dog')",
        '1 annotations without an image left out (first: {}/gone.xml: gone)',
    ):
        assert what.format(tmp_path / 'Annotations') in line


def test_lists_and_folders_of_other_tools(tmp_path):
    names = ('a b', 'c', 'd 1', 'e', 'f')
    make_voc(tmp_path / 'cvat', {f'{name}.xml': ('', SIZE, []) for name in names}, [f'{name}.png' for name in names])
    (tmp_path / 'cvat/ImageSets/Main').mkdir(parents=True)
    (tmp_path / 'cvat/ImageSets/Main/default.txt').write_bytes(
        '\ufeff"a b"  1\r\nc -1\r\nd 1\r\n\r\nJPEGImages/e.png\r\nf\r\nf\r\n'.encode()
    )
    images, _ = convert(tmp_path / 'out.json', tmp_path / 'cvat', '--split', 'default')
    assert [image['file_name'] for image in images] == [f'{name}.png' for name in names]
    with pytest.raises(FileNotFoundError, match="train.txt: no such file; .*'train'; there are default"):
        convert(tmp_path / 'out.json', tmp_path / 'cvat', '--split', 'train')
    (tmp_path / 'cvat/ImageSets/Main/more.txt').write_text('g')
    with pytest.raises(FileNotFoundError, match='g.xml: no such file; .*more.txt names it'):
        convert(tmp_path / 'out.json', tmp_path / 'cvat', '--split', 'more')
    for root, folders in ((tmp_path / 'labelimg', ('', '')), (tmp_path / 'lower', ('annotations', 'images'))):
        make_voc(root, {'b.xml': ('', SIZE, [GOOD])}, ['b.jpg'], folders)
        (root / folders[0] / '._b.xml').write_bytes(b'\x00')
        assert convert(tmp_path / 'out.json', root)[0][0]['file_name'] == 'b.jpg'
    with pytest.raises(FileNotFoundError, match='without --split all images'):
        convert(tmp_path / 'out.json', tmp_path / 'lower', '--split', 'train')


def test_several_roots_are_one_file(tmp_path, capsys):
    for name in ('VOC2007', 'VOC2012'):
        make_voc(tmp_path / name, {'a.xml': ('<filename>a.jpg</filename>', SIZE, [GOOD])}, ['a.jpg'])
    images, annotations = convert(tmp_path / 'out.json', tmp_path / 'VOC2007', tmp_path / 'VOC2012')
    assert [image['file_name'] for image in images] == ['VOC2007/JPEGImages/a.jpg', 'VOC2012/JPEGImages/a.jpg']
    assert [(one['id'], one['image_id']) for one in annotations] == [(1, 1), (2, 2)]
    assert f'; data_prefix.img is {tmp_path}\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    'files, images, says',
    [
        ({}, [], 'Annotations and JPEGImages|no annotation files'),
        ({'a.xml': ('', '', [])}, ['b.jpg'], 'without an image left out .*; nothing is left'),
        ({'a.xml': ('', SIZE, []), 'b.xml': ('<filename>a.jpg</filename>', SIZE, [])}, ['a.jpg'], 'b.xml: is of'),
        ({'a.xml': ('', SIZE, [])}, ['a.jpg', 'a.png'], 'a.xml: .*may be a.jpg or a.png'),
        ({'a.xml': ('', SIZE, [BOX.format('nan', 5)])}, ['a.jpg'], "object 1 'dog': xmin must be .* got 'nan'"),
        ({'a.xml': ('', SIZE, ['<bndbox/>'])}, ['a.jpg'], "a.xml: .*'dog': xmin must be .* got ''"),
        ({'a.xml': ('', SIZE, [GOOD + '<difficult>7</difficult>'])}, ['a.jpg'], "difficult must be 0 or 1, got '7'"),
        ({'a.xml': ('', SIZE, ['</object><object><name>Dogs</name>'])}, ['a.jpg'], "'Dogs' is not .*; nearest: 'dog'"),
    ],
)
def test_voc_errors(tmp_path, files, images, says):
    (tmp_path / 'Annotations').mkdir()
    make_voc(tmp_path, files, images)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        convert(tmp_path / 'out.json', tmp_path)
    assert not (tmp_path / 'out.json').exists()
    with pytest.raises(FileNotFoundError, match='absent: no such folder'):
        convert(tmp_path / 'out.json', tmp_path / 'absent')
