"""A damaged checkpoint is refused, or holds what was written."""

import os
import random
import shutil

import mmengine
import pytest
import torch
from conftest import ROOT, load_tool
from mmengine.runner import save_checkpoint

from mmdet.apis import DetInferencer, init_detector
from mmdet.io.atomic import write_atomic
from mmdet.io.checkpoint import load_checkpoint_file
from mmdet.io.resuming import find_checkpoint


@pytest.fixture(scope='module')
def states(tiny_config):
    torch.manual_seed(0)
    model = init_detector(str(tiny_config))
    return dict(state_dict=model.state_dict(), meta=dict(cfg=model.cfg.pretty_text, epoch=1))


@pytest.fixture(scope='module', params=['sealed', 'plain', 'pickle'])
def saved(request, states, tmp_path_factory):
    """A checkpoint as we write it, as torch or mmdetection do, and as torch before 1.6."""
    path = tmp_path_factory.mktemp(request.param) / 'x.pth'
    if request.param == 'sealed':
        save_checkpoint(states, str(path))
    else:
        torch.save(states, path, _use_new_zipfile_serialization=request.param == 'plain')
    return path


def damages(data, number, seed=0):
    """``number`` copies of ``data``, each with a byte flipped, 4 KB of zeros, a part cut out or the end missing."""
    draw = random.Random(seed)
    for i in range(number):
        # the index at the end is a small part of the file, and the most interesting
        at = draw.randrange(len(data)) if i % 4 else len(data) - 1 - draw.randrange(min(len(data), 4096))
        copy = bytearray(data)
        if i % 7 == 5:
            copy[at : at + 4096] = bytes(min(4096, len(data) - at))
        elif i % 7 == 6:
            del copy[at : at + draw.choice([1, 64, len(data)])]
        else:
            copy[at] ^= draw.randrange(1, 256)
        if copy != data:
            yield bytes(copy)


def same(one, other):
    return (
        one['meta'] == other['meta']
        and one['state_dict'].keys() == other['state_dict'].keys()
        and all(torch.equal(value, other['state_dict'][key]) for key, value in one['state_dict'].items())
    )


def try_damages(saved, states, folder, number):
    sealed = saved.parent.name.startswith('sealed')
    path = folder / 'damaged.pth'
    assert same(load_checkpoint_file(str(saved)), states)
    for i, data in enumerate(damages(saved.read_bytes(), number)):
        path.write_bytes(data)
        os.utime(path, ns=(i, i))
        try:
            found = load_checkpoint_file(str(path))
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert not sealed and same(found, states)


@pytest.mark.parametrize('saved', ['sealed', 'plain'], indirect=True)
def test_damage_is_found(saved, states, tmp_path):
    try_damages(saved, states, tmp_path, 100)


@pytest.mark.slow
@pytest.mark.parametrize('saved', ['sealed', 'plain'], indirect=True)
def test_much_damage_is_found(saved, states, tmp_path):
    try_damages(saved, states, tmp_path, 3000)


def test_a_sealed_file_is_a_file_of_torch(saved, states):
    assert same(torch.load(saved, weights_only=True), states)
    assert same(torch.load(saved, weights_only=True, mmap=True), states) if 'pickle' not in str(saved) else True
    assert same(mmengine.runner.CheckpointLoader.load_checkpoint(str(saved)), states)


def test_what_is_no_checkpoint_is_written_as_it_is(tmp_path):
    for data in (b'', b'PK', b'PK' + bytes(30), b'{"a": 1}'):
        write_atomic(data, tmp_path / 'x')
        assert (tmp_path / 'x').read_bytes() == data


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_resuming_takes_the_one_before(states, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmdet.io.resuming.print_log', lambda text, *_: said.append(text))
    for i in (1, 2, 3):
        save_checkpoint(states, str(tmp_path / f'epoch_{i}.pth'))
        os.utime(tmp_path / f'epoch_{i}.pth', (i, i))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    assert find_checkpoint(tmp_path) == str(tmp_path / 'epoch_3.pth') and not said
    flip(tmp_path / 'epoch_3.pth')
    assert find_checkpoint(tmp_path) == str(tmp_path / 'epoch_2.pth')
    assert (
        len(said) == 1 and said[0].count('epoch_3.pth: damaged') == 1 and 'from' in said[0] and 'epoch_2.pth' in said[0]
    )
    flip(tmp_path / 'epoch_2.pth')
    assert find_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')
    assert 'epoch_3.pth: damaged' in said[1] and 'epoch_2.pth: damaged' in said[1]
    flip(tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match='epoch_3.pth: damaged'):
        find_checkpoint(tmp_path)


def test_links_to_nowhere_are_passed_over(states, tmp_path):
    save_checkpoint(states, str(tmp_path / 'epoch_1.pth'))
    (tmp_path / 'epoch_2.pth').symlink_to('/nowhere/epoch_2.pth')
    assert find_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')


@pytest.mark.parametrize(
    'garbage',
    [
        b'https://example.com/x.pth',
        b'torchvision://resnet50',
        b'mask-rcnn_r18-half_fpn_cbnplus_24e',
        b'\xff\xfe\x00\x80',
        b'\0' * 4096,
        b'x' * 5000,
        b'a\nb',
        b'',
        b'/etc/passwd',
    ],
    ids=len,
)
def test_garbage_in_the_pointer_is_passed_over(states, tmp_path, garbage):
    save_checkpoint(states, str(tmp_path / 'epoch_1.pth'))
    (tmp_path / 'last_checkpoint').write_bytes(garbage)
    assert find_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')


def test_every_tool_names_the_damaged_file(states, tiny_config, tmp_path):
    path = tmp_path / 'x.pth'
    save_checkpoint(states, str(path))
    whole = tmp_path / 'whole.pth'
    shutil.copy(path, whole)
    flip(path)
    image = str(ROOT / 'demo/images/blood_cells.jpg')
    uses = [
        lambda: init_detector(str(tiny_config), str(path)),
        lambda: DetInferencer(weights=str(path)),
        lambda: load_tool('tools/test.py').main([str(tiny_config), str(path)]),
        lambda: load_tool('tools/train.py').main([str(tiny_config), '--resume', str(path)]),
        lambda: load_tool('tools/train.py').main([str(tiny_config), '--cfg-options', f'load_from={path}']),
        lambda: load_tool('demo/image_demo.py').main([image, '--weights', str(path)]),
        lambda: load_tool('tools/model_converters/publish_model.py').main([str(path), str(tmp_path / 'y')]),
        lambda: load_tool('tools/model_converters/torchvision2mmdet.py').main([str(path), str(tmp_path / 'y')]),
        lambda: load_tool('tools/analysis_tools/norm_statistics.py').main([str(tiny_config), str(path)]),
        lambda: load_tool('tools/analysis_tools/benchmark.py').main([str(tiny_config), '--checkpoint', str(path)]),
    ]
    for use in uses:
        with pytest.raises(ValueError, match='x.pth: damaged'):
            use()
    assert load_tool('tools/model_converters/publish_model.py').main([str(whole), str(tmp_path / 'z')]) is None
