"""What --force of make_shapes may replace; the labels of a converted VOC set in CocoDataset."""

import json

import pytest
from conftest import load_tool

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
