"""Files are written whole or not at all."""

import os

import mmengine
import pytest
import torch

from mmdet.engine import AtomicLocalBackend
from mmdet.io.atomic import replace_when_done, write_atomic


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'a' / 'file'
    write_atomic(b'old', path)
    monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        write_atomic(b'new', path)
    assert path.read_bytes() == b'old' and [p.name for p in path.parent.iterdir()] == ['file']


def test_mmengine_writes_through_it(tmp_path, monkeypatch):
    assert isinstance(mmengine.fileio.get_file_backend(str(tmp_path / 'x.pth')), AtomicLocalBackend)
    monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        mmengine.runner.save_checkpoint(dict(state_dict=dict(w=torch.ones(3))), str(tmp_path / 'x.pth'))
    assert not list(tmp_path.iterdir())


def test_mode_follows_the_umask(tmp_path):
    write_atomic(b'', tmp_path / 'f')
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / 'f').stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_block_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), replace_when_done(tmp_path / 'a' / 'x.mp4') as temporary:
        assert temporary.endswith('.mp4')
        open(temporary, 'w').write('half')
        raise KeyboardInterrupt
    assert not list((tmp_path / 'a').iterdir())
    with replace_when_done(tmp_path / 'a' / 'x.mp4') as temporary:
        open(temporary, 'w').write('whole')
        assert not (tmp_path / 'a' / 'x.mp4').exists()
    assert [path.name for path in (tmp_path / 'a').iterdir()] == ['x.mp4']
