"""There is a checkpoint to resume from at any moment."""

from types import SimpleNamespace

import pytest
from mmengine.fileio import LocalBackend
from mmengine.logging import MessageHub, MMLogger

from mmdet.engine.hooks import CheckpointHook
from mmdet.engine.hooks.checkpoint_hook import LateRemoval


def test_old_checkpoints_go_after_the_new_one_is_there(tmp_path, monkeypatch):
    (tmp_path / 'epoch_1.pth').write_text('old')
    for name in ('.epoch_2.suwujl4s.pth', '.epoch_2.ab12cd_4.tmp.pth', '.last_checkpoint.ab12cd_4.tmp'):
        (tmp_path / name).write_text('half')
    runner = SimpleNamespace(
        work_dir=str(tmp_path),
        epoch=1,
        iter=4,
        logger=MMLogger.get_instance('test'),
        message_hub=MessageHub.get_instance('late'),
        train_loop=None,
    )
    runner.message_hub.update_info('keep_ckpt_ids', [1])
    hook = CheckpointHook(interval=1, max_keep_ckpts=1)
    hook.before_train(runner)
    assert [path.name for path in tmp_path.iterdir()] == ['epoch_1.pth']

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    runner.save_checkpoint = killed
    with pytest.raises(KeyboardInterrupt):
        hook.after_train_epoch(runner)
    assert (tmp_path / 'epoch_1.pth').read_text() == 'old'
    runner.message_hub.update_info('keep_ckpt_ids', [1])
    hook.before_train(runner)
    runner.save_checkpoint = lambda folder, name, *args, **kwargs: (tmp_path / name).write_text('new')
    hook.after_train_epoch(runner)
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_2.pth')


def test_late_removal_spares_what_was_written_again(tmp_path):
    backend = LateRemoval(LocalBackend(), str(tmp_path))
    for name in 'ab':
        (tmp_path / name).write_text(name)
        backend.remove(str(tmp_path / name))
    assert len(list(tmp_path.iterdir())) == 2
    backend.flush({str(tmp_path / 'b')})
    backend.flush(set())
    assert [path.name for path in tmp_path.iterdir()] == ['b']


def test_nothing_outside_the_folder_is_removed(tmp_path):
    work = tmp_path / 'work'
    (work / 'old').mkdir(parents=True)
    (tmp_path / 'precious').mkdir()
    (tmp_path / 'precious' / 'key').write_text('secret')
    backend = LateRemoval(LocalBackend(), str(work))
    for path in (tmp_path / 'precious', work / '..' / 'precious'):
        backend.rmtree(str(path))
        backend.remove(str(path / 'key'))
    backend.flush(set())
    assert (tmp_path / 'precious' / 'key').read_text() == 'secret'
    backend.rmtree(str(work / 'old'))
    assert not list(work.iterdir())
