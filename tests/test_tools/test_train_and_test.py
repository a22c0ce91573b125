"""The command line as a user runs it."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from conftest import ROOT, load_tool

from mmdet.run.launch import check_processes
from mmdet.visualization.draw import enlarge


def run(*command, code=0, **env):
    """Run a command from the repo's root; its output."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **env}
    done = subprocess.run(
        [str(c) for c in command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == code if code == 0 else done.returncode != 0, done.stdout[-3000:]
    return done.stdout


def here(name, *words):
    """Run a command in this process, for less time; its log."""
    words = list(map(str, words))
    time.sleep(1 - time.time() % 1)  # of two runs that begin in one second the second one has no log of its own
    load_tool(f'tools/{name}.py').main(words)
    folder = Path(words[words.index('--work-dir') + 1])
    return max(folder.glob('*/*.log')).read_text()


@pytest.fixture(scope='module')
def trained(tiny_config, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained')
    output = run(sys.executable, 'tools/train.py', tiny_config, '--work-dir', work_dir)
    return work_dir, output


def ap_of(output, kind):
    return [float(v) for v in re.findall(rf'coco/{kind}_mAP(?:_\w+)?: (-?[\d.]+)', output)]


def test_train_writes_checkpoints_and_says_time_and_memory(trained):
    work_dir, output = trained
    assert (work_dir / 'epoch_2.pth').is_file() and list(work_dir.glob('best_coco*'))
    log = next(work_dir.glob('*/*.log')).read_text()
    assert re.search(r'start: [\d.]+ s from command to first iteration', log)
    assert int(re.search(r'peak resident memory: (\d+) MiB', output).group(1)) > 100
    assert re.search(r'CBN: \d+ layers', output) and 'loss_mask' in output and 'coco/segm_mAP' in output
    checkpoint = torch.load(work_dir / 'epoch_2.pth', weights_only=False)
    [windows] = checkpoint['cbn_window']
    assert len(windows) == 20 + 8 + 4 + 1  # R-18, FPN, box head, mask head
    assert all(state['step'] == 6 for name, state in windows.items() if 'backbone' in name)


def test_the_terminal_gets_a_few_lines_and_the_log_file_all(trained, tiny_config, tmp_path):
    work_dir, output = trained
    head = output.split('Epoch(train)')[0].splitlines()
    warned = [line.partition(' WARNING - ')[2] for line in head if ' WARNING - ' in line]
    for said in ('for 4 images a batch, here are 2', 'the warm-up takes 50 of 6 iterations'):
        assert any(said in line for line in warned)
    assert len(head) - len(warned) <= 6 and re.search(
        r'tiny: MaskRCNN, [\d.]+ M parameters, norms: 33 CBN\. Work dir: ', head[0]
    )
    assert any('6 images' in line for line in head)
    tested = run(sys.executable, 'tools/test.py', tiny_config, work_dir / 'epoch_2.pth', '--work-dir', tmp_path)
    assert len(tested.split('Epoch(test)')[0].splitlines()) <= 5
    for text in (output, tested):
        for noise in (
            'GPU number',
            'deprecated',
            'Deprecat',
            'Hooks will be',
            'System environment',
            'Config:',
            'FileClient',
        ):
            assert noise not in text
    for folder in (work_dir, tmp_path):
        log = next(folder.glob('*/*.log')).read_text()
        assert 'Hooks will be executed' in log and 'System environment' in log and 'Config:' in log


def test_an_error_is_one_line_and_its_traceback_in_the_log(tiny_config, tmp_path):
    empty = run(sys.executable, 'tools/train.py', tiny_config, '--cfg-options', 'model.neck.out_chanels=3', code=1)
    assert len(empty.splitlines()) == 1 and empty.startswith('error: TypeError: config ')
    (tmp_path / 'broken.json').write_text('{"images": []')
    options = [f'train_dataloader.dataset.ann_file={tmp_path}/broken.json']
    told = run(sys.executable, 'tools/train.py', tiny_config, '--work-dir', tmp_path, '--cfg-options', *options, code=1)
    assert 'Traceback' not in told and told.splitlines()[-1].startswith('error: ')
    assert 'broken.json' in told.splitlines()[-1]
    assert 'Traceback' in next(tmp_path.glob('*/*.log')).read_text()


def test_test_prints_tables_and_writes_results_and_pictures(trained, tiny_config, tiny_shapes, tmp_path):
    work_dir, train_output = trained
    output = run(
        sys.executable,
        'tools/test.py',
        tiny_config,
        work_dir / 'epoch_2.pth',
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'results.pkl',
        '--show-dir',
        tmp_path / 'shown',
        '--cfg-options',
        'default_hooks.visualization.score_thr=1',
    )
    for kind in ('bbox', 'segm'):
        assert len(ap_of(output, kind)) >= 6
        assert ap_of(output, kind) == ap_of(train_output, kind)
    for name in ('circle', 'square', 'triangle', 'category'):
        assert name in output
    results = pickle.loads((tmp_path / 'results.pkl').read_bytes())
    pictures = {path.name: cv2.imread(str(path)) for path in (tmp_path / 'shown').glob('*.png')}
    assert len(results) == len(pictures) == 5
    for name, picture in pictures.items():  # annotations, and no detection of a score above 1
        plain = enlarge(cv2.imread(str(tiny_shapes / 'val' / name)), 8)[:, 1:]
        assert picture.shape == (512, 1024, 3) and (picture[:, 513:] == plain).all()
        assert (picture[:, 1:511] != plain[:, :510]).any()
    assert {'img_id', 'pred_instances'} <= set(results[0])
    again = run(sys.executable, 'tools/analysis_tools/eval_metric.py', tiny_config, tmp_path / 'results.pkl')
    for kind in ('bbox', 'segm'):
        assert ap_of(again, kind) == ap_of(output, kind)


@pytest.fixture(scope='module')
def published(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp('published')
    run(sys.executable, 'tools/model_converters/publish_model.py', trained[0] / 'epoch_2.pth', folder / 'model.pth')
    return next(folder.glob('model-????????.pth'))


def test_two_processes_train_and_evaluate_each_image_once(trained, published, tiny_config, tmp_path):
    work_dir, _ = trained
    alone = here('test', tiny_config, published, '--work-dir', tmp_path)
    both = run('tools/dist_test.sh', tiny_config, work_dir / 'epoch_2.pth', 2, '--work-dir', tmp_path)
    assert ap_of(alone, 'bbox') == ap_of(both, 'bbox') and len(ap_of(both, 'segm')) >= 6
    output = run(
        'tools/dist_train.sh',
        tiny_config,
        2,
        '--work-dir',
        tmp_path / 'two',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'optim_wrapper.type=AmpOptimWrapper',
        'optim_wrapper.dtype=bfloat16',
    )
    assert 'Epoch(train) [1][2/2]' in output and ap_of(output, 'bbox')
    checkpoint = torch.load(tmp_path / 'two' / 'epoch_1.pth', weights_only=False)
    assert checkpoint['optimizer']['loss_scaler'] == {}


def test_auto_scale_lr_and_weights(published, tiny_config, tmp_path):
    output = here(
        'train',
        tiny_config,
        '--auto-scale-lr',
        '--work-dir',
        tmp_path,
        '--weights',
        published,
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'val_cfg=None',
        'val_dataloader=None',
        'val_evaluator=None',
    )
    assert f'Load checkpoint from {published}' in output
    assert 'batch size of 4 and the current batch size is 2. Scaling the original LR by 0.5' in output


def test_mixed_precision_on_the_cpu(trained, tiny_config, tmp_path):
    """Trained and resumed in bfloat16 and in float32, one from the other; evaluated in float32."""
    output = here('train', tiny_config, '--amp', 'auto', '--work-dir', tmp_path / 'auto')
    checkpoint = torch.load(tmp_path / 'auto' / 'epoch_2.pth', weights_only=False)
    assert not checkpoint['optimizer']['loss_scaler']
    assert {v.dtype for v in checkpoint['state_dict'].values() if v.is_floating_point()} == {torch.float32}
    losses, exact = ([float(v) for v in re.findall(r' loss: ([\d.]+)', text)] for text in (output, trained[1]))
    assert len(losses) == len(exact) == 6 and losses == pytest.approx(exact, rel=0.1) and losses != exact
    alone = here('test', tiny_config, tmp_path / 'auto' / 'epoch_2.pth', '--work-dir', tmp_path / 'alone')
    assert ap_of(alone, 'segm') == ap_of(output, 'segm')
    more = ['--cfg-options', 'train_cfg.max_epochs=3', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
    for start, amp in (('auto', []), ('auto', ['--amp', 'bf16']), ('trained', ['--amp=bf16'])):
        folder = trained[0] if start == 'trained' else tmp_path / start
        work_dir = tmp_path / f'{start}{len(amp)}'
        words = [tiny_config, '--work-dir', work_dir, '--resume', folder / 'epoch_2.pth', *amp, *more]
        load_tool('tools/train.py').main(list(map(str, words)))  # logs of one second are in one folder
        assert torch.load(work_dir / 'epoch_3.pth', weights_only=False)['meta']['iter'] == 9


def test_print_config(tiny_config):
    output = run(sys.executable, 'tools/print_config.py', tiny_config, '--cfg-options', 'train_cfg.max_epochs=7')
    assert 'max_epochs=7' in output and "type='CBN'" in output


# -- bad input ----------------------------------------------------------------------------------------------------


def tool(name):
    return load_tool(f'tools/{name}.py')


@pytest.fixture
def fails(tmp_path, capfd, monkeypatch):
    """Run a tool in this process; it must fail, write nothing, and say what the patterns ask for."""
    from mmdet.run.ending import run_main

    def check(name, *arguments, says=(), writes=False):
        work_dir = tmp_path / 'work'
        before = set(tmp_path.rglob('*'))
        module = tool(name)
        code = run_main(lambda: module.main([*map(str, arguments), '--work-dir', str(work_dir)]))
        assert code == 1
        last = capfd.readouterr().err.split('\nerror: ')[-1]
        for pattern in says:
            assert re.search(pattern, last), (pattern, last)
        if not writes:
            assert set(tmp_path.rglob('*')) == before
        assert not list(tmp_path.rglob('*.pth.tmp')) and not list(work_dir.rglob('*.pth'))

    return check


NORM = 'model.neck.norm_cfg'


def test_unknown_norm_and_misspelt_argument(fails, tiny_config):
    fails('train', tiny_config, '--cfg-options', f'{NORM}.type=CBM', says=['CBM', 'known are BN.*CBN', 'neck.norm_cfg'])
    fails('train', tiny_config, '--cfg-options', f'{NORM}.bufer_num=3', says=['bufer_num', "nearest: 'buffer_num'"])
    fails('train', tiny_config, '--cfg-options', f'{NORM}.buffer_num=-1', says=['buffer_num.*0 or more.*-1'])


def test_missing_config_data_root_and_annotation_file(fails, tiny_config, tiny_shapes):
    fails('train', 'no/such.py', says=['no/such.py'])
    fails(
        'train',
        tiny_config,
        '--cfg-options',
        'train_dataloader.dataset.data_root=/no/such/',
        says=['train_dataloader.dataset.data_root', '/no/such/', 'INSTALL.md'],
    )
    fails(
        'train',
        tiny_config,
        '--cfg-options',
        'train_dataloader.dataset.ann_file=annotations/no.json',
        says=['ann_file', 'annotations/no.json'],
    )
    fails(
        'test',
        tiny_config,
        'x.pth',
        '--cfg-options',
        'test_dataloader.dataset.data_prefix.img=nowhere',
        says=['data_prefix.img', 'nowhere'],
    )


def _annotations(tmp_path, tiny_shapes, change):
    data = json.loads((tiny_shapes / 'annotations/train.json').read_text())
    data = change(data) or data
    path = tmp_path / 'changed.json'
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return f'train_dataloader.dataset.ann_file={path}'


@pytest.mark.parametrize(
    'change, says',
    [
        (lambda d: 'not json', ['changed.json', 'JSON']),
        (lambda d: [1], ['changed.json', 'COCO']),
        (lambda d: d.pop('images') and None, ['changed.json', 'images']),
    ],
)
def test_annotation_file_that_is_not_coco(fails, tiny_config, tiny_shapes, tmp_path, change, says):
    fails('train', tiny_config, '--cfg-options', _annotations(tmp_path, tiny_shapes, change), says=says, writes=True)


def test_categories_that_do_not_match_classes(fails, tiny_config):
    fails(
        'train',
        tiny_config,
        '--cfg-options',
        "train_dataloader.dataset.metainfo.classes=('cat','square','circle')",
        says=['cat', 'triangle', 'classes'],
        writes=True,
    )


def test_checkpoint_that_is_none_or_of_another_model(fails, tiny_config, trained, tmp_path):
    fails('test', tiny_config, tmp_path / 'no.pth', says=['no.pth', 'no such file'])
    bad = tmp_path / 'bad.pth'
    bad.write_text('hello')
    fails('test', tiny_config, bad, says=['bad.pth', 'not a checkpoint'])
    whole = (trained[0] / 'epoch_2.pth').read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    fails('test', tiny_config, bad, says=['bad.pth', 'cut off'])
    fails('train', tiny_config, '--resume', bad, says=['bad.pth', 'cut off'])
    fails(
        'test',
        tiny_config,
        trained[0] / 'epoch_2.pth',
        '--cfg-options',
        'model.roi_head.bbox_head.fc_out_channels=24',
        says=['another model', 'mismatched', 'bbox_head'],
        writes=True,
    )


def test_options_that_cannot_be_met(fails, tiny_config, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    fails('train', tiny_config, '--amp', 'fp16', says=['--amp fp16.*CUDA.*--amp bf16'])
    for wrong, says in (('float16', 'CUDA.*bfloat16'), ('int8', "'float16' or 'bfloat16', got 'int8'")):
        fails(
            'train',
            tiny_config,
            '--cfg-options',
            'optim_wrapper.type=AmpOptimWrapper',
            f'optim_wrapper.dtype={wrong}',
            says=[says],
        )
    with pytest.raises(SystemExit, match='2'):
        tool('train').parse_args([str(tiny_config), '--amp', 'fp8'])
    assert re.search('--amp.*fp8.*auto.*fp16.*bf16', capfd.readouterr().err)
    fails('train', tiny_config, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None', says=['base_batch_size'])


def test_number_of_processes_that_makes_no_sense(tiny_config):
    output = run('tools/dist_train.sh', tiny_config, 'two', code=1)
    assert 'GPUS=two' in output and 'Traceback' not in output
    for number in ('0', '-1', '100000'):
        with pytest.raises(ValueError, match=f'GPUS={number}'):
            check_processes(number)


def test_usage_of_the_scripts():
    assert 'usage: tools/dist_train.sh' in run('tools/dist_train.sh', code=2)
    assert 'usage: tools/dist_test.sh' in run('tools/dist_test.sh', 'a', code=2)


def test_resumed_with_a_rate_of_its_own_for_a_part(tiny_config, tmp_path):
    options = ['optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0.1', 'val_cfg=None', 'val_dataloader=None']
    command = ['train', tiny_config, '--work-dir', tmp_path, '--cfg-options', *options]
    here(*command, 'val_evaluator=None', 'train_cfg.max_epochs=1')
    output = here(*command, 'val_evaluator=None', 'resume=True')
    assert 'resumed epoch: 1' in output and (tmp_path / 'epoch_2.pth').is_file()
