"""Cells of a grid: their norms, configs and results."""

import io
import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from rich.console import Console

from mmdet.comparison.display import Display, progress_of
from mmdet.comparison.grid import Cell, cell_config, find_norms, find_places, training_length
from mmdet.comparison.results import Results
from mmdet.comparison.speed import span
from mmdet.comparison.trainings import reason_of
from mmdet.config import check_config, load_config
from mmdet.config.text import config_values, differences
from mmdet.words import duration

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def nuclei():
    return load_config(str(ROOT / 'configs' / 'compare_norms' / 'mask-rcnn_r18_fpn_nuclei.py'))


def test_names_of_norms(nuclei):
    norms = find_norms(['CBN-window', 'SyncCBN', 'none', 'GN', "wide=dict(type='CBN', buffer_num=7)"], nuclei)
    assert norms['CBN-window']['backprop'] == 'window' and norms['SyncCBN'] == dict(type='SyncCBN')
    assert norms['none'] is None and norms['GN']['num_groups'] == 8  # the config's, not the default
    assert norms['wide'] == dict(type='CBN', buffer_num=7)


@pytest.mark.parametrize(
    'names, words',
    [
        (['BM'], 'norm_cfgs has BN, GN'),
        (['BN', 'BN'], 'there twice'),
        (['CBN+', 'CBNplus=dict(type="BN")'], 'too like'),
        (["=dict(type='BN')"], 'a name is missing'),
        (['x=7'], "after the '='"),
        (['x=dict(type="CBN", bufer=3)'], 'bufer'),
        (['x=dict(type="CBN", buffer_num=-1)'], 'buffer_num'),
        (['x=dict('], "after the '='"),
    ],
)
def test_bad_norms(nuclei, names, words):
    with pytest.raises((KeyError, TypeError, ValueError), match=words.replace('+', r'\+').replace('(', r'\(')):
        find_norms(names, nuclei)


def test_published_config_gets_the_norm_where_its_backbone_is_frozen(tmp_path):
    config = load_config(str(ROOT / 'configs' / 'cbn' / 'mask_rcnn_r50_fpn_1x.py'))
    places = find_places(config)
    assert places == ['neck', 'bbox_head', 'mask_head']
    path = tmp_path / 'config.py'
    for norm in (None, dict(type='GN', num_groups=32)):
        path.write_text(cell_config(config, path, Cell('x', 2, 5), norm, places))
        merged = load_config(str(path))
        model = merged.model
        assert model.neck.norm_cfg == model.roi_head.bbox_head.norm_cfg == model.roi_head.mask_head.norm_cfg == norm
        assert model.backbone.norm_cfg == config.model.backbone.norm_cfg
        assert merged.train_dataloader.batch_size == 2 and merged.randomness.seed == 5
    with pytest.raises(ValueError, match='--where'):
        cell_config(config, path, Cell('none', 2, 5), None, ['backbone'])
    with pytest.raises(ValueError, match='--seeds'):
        cell_config(config, path, Cell('none', 2, 5), None, places, {'randomness.seed': 3})


def test_learning_rate_of_a_cell(tiny_config, tmp_path):
    config, path, norm = load_config(str(tiny_config)), tmp_path / 'config.py', dict(type='BN')
    assert [Cell('CBN+', 2, 1, lr).name for lr in (None, 0.01, 1e-5)] == [
        'CBNplus_b2_s1',
        'CBNplus_b2_s1_lr0.01',
        'CBNplus_b2_s1_lr1e-05',
    ]
    options = {'optim_wrapper.optimizer.lr': 7.0, 'optim_wrapper.optimizer.momentum': 0.5}
    with pytest.raises(ValueError, match='optimizer.lr: .*--learning-rates'):
        cell_config(config, path, Cell('BN', 1, 0, 0.03), norm, ['neck'], options)
    for lr, wanted in ((None, 7.0), (0.03, 0.03)):
        path.write_text(cell_config(config, path, Cell('BN', 1, 0, lr), norm, ['neck'], options))
        assert load_config(str(path)).optim_wrapper.optimizer == dict(
            config.optim_wrapper.optimizer, lr=wanted, momentum=0.5
        )
        options.pop('optim_wrapper.optimizer.lr', None)


def test_places_that_there_are_not():
    config = load_config(str(ROOT / 'configs' / 'compare_norms' / 'faster-rcnn_r18_fpn_bccd.py'))
    assert find_places(config) == ['backbone', 'neck', 'bbox_head']
    with pytest.raises(KeyError, match='--where mask_head'):
        find_places(config, ['neck', 'mask_head'])


def test_options_that_reach_into_lists(tiny_config, tmp_path):
    options = {
        'param_scheduler.1.milestones': [7],
        'param_scheduler.0.end': 9,
        'train_cfg.max_epochs': 5,
        'train_dataloader.dataset.pipeline.3.prob': 0.25,
    }
    before = load_config(str(tiny_config))
    config = load_config(str(tiny_config), options)
    path = tmp_path / 'config.py'
    path.write_text(cell_config(config, path, Cell('BN', 1, 0), dict(type='BN'), find_places(config), options))
    made = load_config(str(path))
    first, second = before.param_scheduler
    assert made.param_scheduler == [dict(first, end=9), dict(second, milestones=[7])] and made.train_cfg.max_epochs == 5
    pipeline = [step.to_dict() for step in before.train_dataloader.dataset.pipeline]
    pipeline[3]['prob'] = 0.25
    assert made.train_dataloader.dataset.pipeline == pipeline
    assert made.train_dataloader.dataset.ann_file == before.train_dataloader.dataset.ann_file


def test_evaluators_in_a_list(tiny_config, tmp_path):
    base = tmp_path / 'list.py'
    evaluator = Config.fromfile(str(tiny_config)).val_evaluator.to_dict()
    base.write_text(
        f"_base_ = '{tiny_config}'\nval_evaluator = [dict(type='DumpDetResults', out_file_path='x.pkl'), "
        f'{evaluator!r}]\n'
    )
    path = tmp_path / 'cell' / 'config.py'
    path.parent.mkdir()
    config = load_config(str(base))
    path.write_text(cell_config(config, path, Cell('BN', 1, 0), dict(type='BN'), find_places(config)))
    merged = load_config(str(path))
    check_config(merged, ('train', 'val'))
    assert 'outfile_prefix' not in merged.val_evaluator[0]
    assert merged.val_evaluator[1] == dict(evaluator, outfile_prefix=str(tmp_path / 'cell' / 'val'))


def test_where_two_configs_differ():
    text = "a = dict(b=[1, dict(c='x')], **{'d e': 2})\nwork_dir = 'here'\nval_evaluator = dict(outfile_prefix='p')\n"
    assert config_values(text)['a'] == {'b': [1, {'c': 'x'}], 'd e': 2}
    moved = text.replace('here', 'there').replace("'p'", "'q'") + 'norm_cfgs = dict(BN=None)\n'
    assert list(differences(text, moved)) == []
    assert list(differences(text, text.replace("'x'", "'y'"))) == ["a.b.1.c: 'x', now 'y'"]
    assert list(differences(text, text + 'n = 1\n')) == ["n: 'not set', now 1"]
    for bad in ("a = open('file')", 'import os', 'a = [', 'a = b'):
        with pytest.raises(ValueError, match='merged config'):
            config_values(bad)


def test_values_are_those_of_mmengine(nuclei):
    assert config_values(nuclei.pretty_text) == nuclei.to_dict()


def make_cell(**changes):
    return {
        **dict(
            norm='BN',
            batch_size=1,
            seed=0,
            metrics={},
            curve=[],
            losses=[],
            config='a = 1\n',
            cell_config='',
            command='',
        ),
        **changes,
    }


def test_results_file(tmp_path):
    path = tmp_path / 'results.json'
    results = Results(path)
    results.fail('BN_b1_s0', 'no memory')
    results.add('BN_b1_s0', make_cell())
    again = Results(path)
    assert again.data['failed'] == {} and again.done('BN_b1_s0', 'a = 1\n', 1) and not again.done('other', '', 1)
    with pytest.raises(ValueError, match='a: 1, now 2.*another --work-dir'):
        again.done('BN_b1_s0', 'a = 2\n', 1)
    with pytest.raises(ValueError, match='--processes 1, now 2'):
        again.done('BN_b1_s0', 'a = 1\n', 2)


@pytest.mark.parametrize(
    'content, words',
    [
        ('[', 'Expecting'),
        ('[]', 'kind'),
        ('{"kind": "other"}', 'kind'),
        ('{"kind": "mmdet norm comparison", "cells": []}', '"cells" is no object'),
        (json.dumps({'kind': 'mmdet norm comparison', 'cells': {'x': make_cell(metrics=3)}}), 'cells, x: "metrics"'),
    ],
)
def test_results_file_of_another_kind(tmp_path, content, words):
    path = tmp_path / 'results.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=f'{path}.*{words}'):
        Results(path)


def test_why_a_training_failed():
    torchrun = 'x\nerror: ValueError: no such key\ntorch.distributed.elastic.ChildFailedError:\n====\n  exitcode: 1\n'
    assert reason_of(torchrun, 1) == 'ValueError: no such key'
    assert reason_of('Traceback\nMemoryError: no memory\nat the end\n', 1) == 'MemoryError: no memory'
    assert reason_of('', 3) == 'exit code 3' and 'SIGKILL' in reason_of('epoch 1', -9)


def test_progress_of_a_run(tmp_path):
    assert progress_of(tmp_path, 'epoch', 4) == 'starts'
    folder = tmp_path / 'time' / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('{"loss": 1.25, "epoch": 2, "step": 70}\n{"coco/bbox_mAP": 0.1}\n{"loss": 1')
    assert progress_of(tmp_path, 'epoch', 4) == 'epoch 2 of 4, iteration 70, loss 1.250'
    assert progress_of(tmp_path, 'iteration', 90) == 'iteration 70 of 90, loss 1.250'
    assert duration(7509) == '2:05:09'


def test_live_display(monkeypatch):
    monkeypatch.setattr('sys.stdout.isatty', lambda: True, raising=False)
    display = Display(9)
    display.live.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with display:
        display.say('GN[b1]: AP 0.3')
        display.show(3, ['BN: epoch 1', 'CBN: starts'], 75)
        display.live.refresh()
        text = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', display.live.console.file.getvalue())
    lines = [line.strip() for line in text.splitlines()]
    assert 'GN[b1]: AP 0.3' in lines and '3 of 9 trainings, about 0:01:15 left' in lines
    assert 'BN: epoch 1' in lines and 'CBN: starts' in lines


def test_runs_counted_in_iterations(tiny_config, tmp_path):
    base = tmp_path / 'iterations.py'
    base.write_text(
        f"_base_ = '{tiny_config}'\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=7, val_interval=3)\n"
    )
    config, path = load_config(str(base)), tmp_path / 'config.py'
    path.write_text(cell_config(config, path, Cell('BN', 1, 0), dict(type='BN'), find_places(config)))
    merged = load_config(str(path))
    assert training_length(merged) == ('iteration', 7)
    assert training_length(load_config(str(tiny_config))) == ('epoch', 2)
    # mmengine would log every evaluation as of epoch 0
    assert not merged.log_processor.by_epoch and not merged.default_hooks.logger.log_metric_by_epoch
    assert merged.default_hooks.logger.interval == 1


def test_rounds_in_words():
    assert span([30, 30]) == '30' and span([30, 12, 20]) == '12 to 30'
