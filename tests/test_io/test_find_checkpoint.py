"""Which checkpoint a run is resumed from."""

import os

import pytest
import torch

from mmdet.io.resuming import find_checkpoint


def save(path, age=0):
    torch.save(dict(state_dict={}), path)
    os.utime(path, (10**9 - age, 10**9 - age))
    return str(path)


def test_the_named_one(tmp_path):
    assert find_checkpoint(tmp_path) is None and find_checkpoint(tmp_path / 'no') is None
    first, _ = save(tmp_path / 'epoch_1.pth', age=5), save(tmp_path / 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text(first)
    assert find_checkpoint(tmp_path) == first


@pytest.mark.parametrize('pointer', [None, '', '/moved/away/epoch_2.pth'])
def test_the_newest_whole_one_if_the_pointer_is_lost(tmp_path, pointer):
    save(tmp_path / 'iter_7.pth', age=9)
    newest = save(tmp_path / 'epoch_2.pth', age=5)
    save(tmp_path / 'best_coco_bbox_mAP_epoch_2.pth')  # without optimizer
    (tmp_path / 'epoch_3.pth').write_bytes((tmp_path / 'epoch_2.pth').read_bytes()[:99])
    if pointer is not None:
        (tmp_path / 'last_checkpoint').write_text(pointer)
    assert find_checkpoint(tmp_path) == newest


def test_none_that_can_be_read_is_an_error(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/no/epoch_2.pth')
    with pytest.raises(FileNotFoundError, match='/no/epoch_2.pth'):
        find_checkpoint(tmp_path)
