"""Configs and files of results with anything in them: used, or refused with the file and the key."""

import itertools
import json
import pickle
import re

import pytest
import torch
from conftest import ROOT, load_tool
from fuzzing import COUNTS, EXAMPLES, annotations, mutated, odd_values, run
from fuzzing import ODD as ODD_ANNOTATIONS
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmdet.analysis import errors, logs
from mmdet.analysis.confusion import Objects, confusion, detections, read_samples
from mmdet.comparison.report import write_report
from mmdet.comparison.results import show
from mmdet.config import build_model, check_model_config, load_config
from mmdet.ops.norm import build_norm_layer, conv_norm

ODD = odd_values(
    [
        dict(type='BN'),
        dict(type='x'),
        dict(type='os.system', command='false'),
        'a.b',
        '..',
        dict(type=None),
        dict(type=[1]),
    ]
)


def lists(node):
    if isinstance(node, dict):
        return {key: lists(value) for key, value in node.items()}
    return [lists(value) for value in node] if isinstance(node, (list, tuple)) else node


@EXAMPLES
def test_models(examples):
    init_default_scope('mmdet')
    cfg = load_config(str(ROOT / 'configs/shapes/mask-rcnn_r18_fpn_cbn.py'))
    base = lists(cfg.model.to_dict())

    def use(model):
        changed = Config(dict(model=model))
        object.__setattr__(changed, '_filename', 'c.py')
        with torch.device('meta'):  # sizes may be absurd
            try:
                check_model_config(changed)
                build_model(changed)
            except (KeyError, TypeError, ValueError, ImportError) as error:
                assert re.match(r"['\"]?config c.py, model", str(error)), error

    run(examples, mutated(base, ODD, most=2), use)


NORMS = [
    dict(type='BN', eps=1e-5, momentum=0.1),
    dict(type='GN', num_groups=2, eps=1e-5),
    dict(type='BRN', burnin=1),
    dict(
        type='CBN',
        buffer_num=3,
        burnin=2,
        by_epoch=False,
        compensation='secant',
        backprop='window',
        momentum=0.1,
        running_stats='pooled',
        pool='sliding',
        sample_stride=1,
        eps=1e-5,
    ),
    dict(type='CBN+', buffer_num=5),
    dict(type='CBN+GN', num_groups=2, share=0.5),
    dict(type='SyncCBN', buffer_num=2),
]


@EXAMPLES
def test_norms(examples):
    def use(cfg):
        try:
            _, norm = build_norm_layer(cfg, 4)
        except (KeyError, TypeError, ValueError) as error:
            assert any(word in str(error) for word in ('norm_cfg', *map(str, cfg or ()))) or re.search(
                r'^\W*(CBN|BRN|GN|num_|affine|eps|share)', str(error)
            ), error
            return
        conv, norm.epoch_length = nn.Conv2d(3, 4, 1), 1
        y = conv_norm(conv, norm, torch.zeros(2, 3, 2, 2))
        assert y.shape == (2, 4, 2, 2)

    run(examples, st.sampled_from(NORMS).flatmap(lambda cfg: mutated(cfg, ODD, most=2)), use)


@EXAMPLES
def test_results_of_a_comparison(examples, tmp_path):
    cell = dict(
        norm='BN',
        norm_cfg=dict(type='BN'),
        batch_size=1,
        seed=0,
        lr=0.01,
        processes=1,
        unit='epoch',
        metrics={'coco/bbox_mAP': 0.2},
        curve=[{'step': 1, 'coco/bbox_mAP': 0.1}, {'step': 2, 'coco/bbox_mAP': 0.2}],
        losses=[[10, 3.0], [20, 2.0]],
        iteration_seconds=0.1,
        images_per_second=9.0,
        gpu_memory_mib=None,
        memory_mib=100,
        seconds=5,
        config='train_cfg = dict(max_epochs=2)\n',
        cell_config='_base_ = "x.py"\n',
        command='python tools/train.py x.py',
        machine=dict(torch='2', device='CPU', cores=2),
        detections={'1': [dict(image_id=1, category_id=1, bbox=[1, 2, 3, 4], score=0.5)]},
    )
    base = dict(
        kind='mmdet norm comparison',
        failed={'c': 'no'},
        cells=dict(a=cell, b=dict(cell, seed=1, norm='GN')),
        grid=dict(
            config='x.py',
            command='x',
            norms=dict(BN=dict(type='BN')),
            batch_sizes=[1],
            seeds=[0, 1],
            processes=1,
            jobs=1,
            places=['neck'],
            cells=['a', 'b'],
            versions=dict(torch='2'),
        ),
    )
    path = tmp_path / 'results.json'

    def use(data):
        path.write_text(json.dumps(data))
        try:
            show(path, lambda read: write_report(read, tmp_path))
        except ValueError as error:
            assert str(error).startswith(str(path)), error

    use(base)
    run(examples, mutated(base, ODD, most=2), use)


DETECTIONS = [
    dict(
        image_id=i % 3 + 1,
        category_id=i % 2 + 1,
        score=0.5 + i / 10,
        bbox=[2, 2, 10.5, 8],
        segmentation=dict(size=[24, 32], counts=COUNTS),
    )
    for i in range(3)
]


@EXAMPLES
@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_detections_in_cocos_format(examples, kind, tmp_path):
    (tmp_path / 'x.json').write_text(json.dumps(annotations()))
    truth, path = errors.read_truth(str(tmp_path / 'x.json'), kind), tmp_path / 'found.json'

    def use(items):
        path.write_text(json.dumps(items))
        try:
            found = errors.read_results(path, kind, truth)
        except ValueError as error:
            assert str(error).startswith(f'results {path}: '), error
            return
        errors.analyze(truth, found, kind)

    use(DETECTIONS)
    run(examples, mutated(DETECTIONS, st.one_of(ODD, ODD_ANNOTATIONS), most=2), use)


@EXAMPLES
def test_predictions(examples, tmp_path):
    found = dict(
        bboxes=torch.tensor([[2.0, 2, 9, 9], [1, 1, 5, 5]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.5, 0.25]),
    )
    base = [dict(img_id=i, pred_instances=dict(found)) for i in range(2)]
    objects = Objects(torch.tensor([[2.0, 2, 9, 9]]), torch.tensor([0]), torch.tensor([False]))
    path = tmp_path / 'found.pkl'
    odd = st.one_of(
        ODD,
        st.sampled_from(
            [
                torch.zeros(3),
                torch.zeros(2, 4),
                torch.zeros(0),
                torch.tensor(1),
                torch.tensor([5, -1]),
                torch.zeros(2, 4, dtype=torch.complex64),
                print,
            ]
        ),
    )

    def use(samples):
        path.write_bytes(pickle.dumps(samples))
        try:
            predictions = read_samples(path, 2)
        except ValueError as error:
            assert str(error).startswith(f'predictions {path}: '), error
            return
        for sample in predictions.values():
            confusion(objects, detections(sample), 2, 0.1, 0.5)

    use(base)
    run(examples, mutated(base, odd, most=2), use)


@EXAMPLES
def test_logs(examples, tmp_path):
    base = [dict(lr=0.1, loss=3.5, time=0.1, epoch=1, iter=i, step=i) for i in (1, 2)] + [
        {'coco/bbox_mAP': 0.3, 'step': 1},
        dict(lr=0.1, loss=2.5, time=0.1, epoch=2, iter=3, step=3),
    ]
    path = tmp_path / 'scalars.json'

    def use(records):
        path.write_text('\n'.join(map(json.dumps, records if isinstance(records, list) else [records])))
        try:
            log = logs.read_log(path)
        except ValueError as error:
            assert str(error).startswith(f'{path}, line '), error
            return
        for key in itertools.chain.from_iterable(logs.find_keys(log).values()):
            logs.get_curve(log, key)
        times = logs.epoch_times(log)
        if times:
            logs.time_summary(times)

    use(base)
    run(examples, mutated(base, ODD, most=2), use)


def test_the_command_names_the_file(tmp_path):
    (tmp_path / 'results.json').write_text('[' * 100000)
    config = str(ROOT / 'configs/compare_norms/faster-rcnn_r18_fpn_bccd.py')
    with pytest.raises(ValueError, match='results.json: not a file of results'):
        load_tool('tools/compare_norms.py').main([config, '--work-dir', str(tmp_path), '--report-only'])
