"""mmdet/config/check.py: names that there are not are refused, and nothing else."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

from mmdet.config import check_model_config
from mmdet.config.check import check_parts
from mmdet.config.signatures import arguments
from mmdet.models.roi_heads import Shared2FCBBoxHead
from mmdet.registry import DATASETS, MODELS

ROOT = Path(__file__).resolve().parents[2]
BASE = Config.fromfile(str(ROOT / 'configs/shapes/mask-rcnn_r18_fpn_bn.py'))


def check(changes, parts=('train', 'val', 'test')):
    cfg = copy.deepcopy(BASE)
    cfg.merge_from_dict(changes)
    check_model_config(cfg)
    check_parts(cfg, parts)


# That every config of the toolbox passes is in test_configs.py.


NMS = 'model.test_cfg.rcnn.nms.type'
PIPELINE = 'train_dataloader.dataset.pipeline'


@pytest.mark.parametrize(
    'key, value, error, says',
    [
        ('model.type', 'CascadeRCNN', KeyError, "model.type: there is no 'CascadeRCNN'; nearest: 'FasterRCNN'"),
        ('model.backbone.type', 'ResNeSt', KeyError, "model.backbone.type: there is no 'ResNeSt'; nearest: 'ResNet'"),
        ('model.backbone.type', 'mmdet.Resnet', KeyError, "no 'mmdet.Resnet'; nearest: 'ResNet'"),
        ('model.backbone.type', 'nowhere.ConvNeXt', KeyError, "no 'nowhere.ConvNeXt'; is its package installed"),
        ('model.backbone.type', 'torch.nn.NoSuch', KeyError, "no 'torch.nn.NoSuch'"),
        ('model.backbone.init_cfg', [dict(type='Pretraind')], KeyError, r"init_cfg.0.type.*nearest: 'Pretrained'"),
        ('model.rpn_head.anchor_generator.type', 'AnchorGen', KeyError, "nearest: 'AnchorGenerator'"),
        ('model.train_cfg.rcnn.sampler.type', 'RandomSamler', KeyError, "rcnn.sampler.type.*'RandomSampler'"),
        (NMS, 'softnms', ValueError, "test_cfg.rcnn.nms.type must be one of nms, soft_nms, got 'softnms'"),
        (f'{PIPELINE}', [dict(type='LoadImage')], KeyError, f"{PIPELINE}.0.type.*'LoadImageFromFile'"),
        ('train_dataloader.sampler.type', 'DefautSampler', KeyError, "nearest: 'DefaultSampler'"),
        ('optim_wrapper.optimizer.type', 'AdmW', KeyError, "optim_wrapper.optimizer.type.*nearest: 'AdamW'"),
        ('param_scheduler', [dict(type='MultiStep')], KeyError, "param_scheduler.0.type.*'MultiStepLR'"),
        ('val_evaluator.type', 'CocoMetrics', KeyError, "val_evaluator.type.*nearest: 'CocoMetric'"),
        ('default_hooks.logger.type', 'LogHook', KeyError, 'default_hooks.logger.type'),
        ('custom_hooks', [dict(type='NoHook')], KeyError, 'custom_hooks.0.type'),
        ('visualizer.vis_backends', [dict(type='LocalVisBackends')], KeyError, "nearest: 'LocalVisBackend'"),
        (
            'model.neck.out_chanels',
            3,
            TypeError,
            "model.neck: FPN has no argument 'out_chanels'; nearest: 'out_channels'",
        ),
        ('model.roi_head.bbox_head.num_class', 3, TypeError, "bbox_head: .* no argument 'num_class'; nearest: 'num_cl"),
        ('model.extra', 3, TypeError, "MaskRCNN has no argument 'extra'; it has backbone, .*train_cfg"),
        (
            'train_dataloader.dataset.data_rot',
            'x',
            TypeError,
            "CocoDataset has no argument 'data_rot'; nearest: 'data_ro",
        ),
        (f'{PIPELINE}', [dict(type='Resize', scal=1)], TypeError, f"{PIPELINE}.0: Resize has no argument 'scal'"),
        ('model.neck.norm_cfg', dict(type='CBM'), KeyError, 'model.neck.norm_cfg: .*CBM.*known are BN'),
        # texts where numbers and truth values are meant
        ('optim_wrapper.optimizer.lr', '1e-x', ValueError, "optim_wrapper.optimizer.lr: must be a number, got '1e-x'"),
        ('default_hooks.checkpoint.interval', 'x', ValueError, 'default_hooks.checkpoint.interval: must be a number'),
        ('model.train_cfg.rcnn.assigner.pos_iou_thr', 'x', ValueError, 'assigner.pos_iou_thr: must be a number, got'),
        ('model.roi_head.bbox_head.loss_cls.loss_weight', 'x', ValueError, 'loss_cls.loss_weight: must be a number'),
        ('train_dataloader.sampler.shuffle', 'no', ValueError, "sampler.shuffle: must be True or False, got 'no'"),
        ('optim_wrapper.clip_grad', dict(max_norm='x'), ValueError, 'optim_wrapper.clip_grad.max_norm: must be a numb'),
        # what mmengine and torch read
        (
            'train_dataloader.sampler.shufle',
            1,
            TypeError,
            "DefaultSampler has no argument 'shufle'; nearest: 'shuffle'",
        ),
        ('optim_wrapper.optimizer.nestrov', 1, TypeError, "SGD has no argument 'nestrov'; nearest: 'nesterov'"),
        ('optim_wrapper.clip_grad', dict(max_nom=1), TypeError, "clip_grad_norm_ has no argument 'max_nom'; nearest"),
        ('optim_wrapper.clip_grad', dict(type='size'), ValueError, "clip_grad.type: must be 'norm' or 'value', got"),
        (
            'optim_wrapper.paramwise_cfg',
            dict(norm_decay=0),
            TypeError,
            "paramwise_cfg: there is no 'norm_decay'; neare",
        ),
        (
            'optim_wrapper.paramwise_cfg',
            dict(custom_keys=dict(backbone=dict(lr_mul=0.1))),
            TypeError,
            "paramwise_cfg.custom_keys.backbone: there is no 'lr_mul'; nearest: 'lr_mult'",
        ),
        ('env_cfg.cudnn_benchmrk', True, TypeError, "env_cfg: there is no 'cudnn_benchmrk'; nearest: 'cudnn_benchmark"),
        ('env_cfg.mp_cfg.mp_start_method', 'frk', ValueError, 'mp_start_method: must be one of .*fork.*, got .frk'),
        ('auto_scale_lr', dict(base_batch=2), TypeError, "auto_scale_lr: there is no 'base_batch'; nearest"),
        ('randomness', dict(seed='x'), ValueError, 'randomness.seed: must be a whole number, or None'),
        ('log_level', 'INF', ValueError, "log_level: must be one of DEBUG, INFO, WARNING, ERROR, got 'INF'"),
        ('default_scope', 'mdet', ValueError, "default_scope: there is no package 'mdet'; set 'mmdet'"),
        ('custom_hooks', [dict(interval=1)], KeyError, "custom_hooks: has no 'type' in .*'interval': 1"),
        ('default_hooks.visualisation', dict(draw=True), KeyError, "default_hooks: has no 'type' in .*'draw': True"),
        # thresholds
        (
            'model.test_cfg.rcnn.score_thresh',
            0.1,
            TypeError,
            "test_cfg.rcnn: no part reads 'score_thresh'; nearest: 's",
        ),
        ('model.test_cfg.rcnn.score_thr', 5, ValueError, 'test_cfg.rcnn.score_thr: must be at most 1, got 5'),
        ('model.test_cfg.rcnn.nms.iou_threshold', 2, ValueError, 'nms.iou_threshold: must be 0 to 1, got 2'),
    ],
)
def test_what_is_refused(key, value, error, says):
    with pytest.raises(error) as caught:
        check({key: value})
    text = caught.value.args[0]
    assert text.startswith('config ') and 'mask-rcnn_r18_fpn_bn.py' in text
    pytest.raises(error, check, {key: value}).match(says)


def test_no_model():
    with pytest.raises(KeyError, match="config: has no key 'model'"):
        check_model_config(Config(dict(a=1)))


def test_only_what_will_run_is_looked_at():
    check({'train_dataloader.sampler.type': 'No', 'optim_wrapper.type': 'No'}, parts=('test',))
    with pytest.raises(KeyError):
        check({'optim_wrapper.type': 'No'}, parts=('train',))


@pytest.mark.parametrize(
    'key, value',
    [
        ('model.backbone.type', 'mmdet.ResNet'),
        ('model.backbone.type', 'mmdet.models.backbones.resnet.ResNet'),
        ('optim_wrapper.optimizer', dict(_delete_=True, type='torch.optim.Adam', lr=0.1)),
        ('optim_wrapper.optimizer.type', 'mmengine.SGD'),
        ('model.backbone.conv_cfg', dict(type='ConvWS')),
        ('model.backbone.init_cfg', None),
        (NMS, 'soft_nms'),
        ('default_hooks.logger', None),
        ('custom_hooks', [dict(type='EMAHook', ema_type='StochasticWeightAverage')]),
        ('custom_hooks', [dict(type='ProfilerHook', on_trace_ready=dict(type='tb_trace'))]),
        ('val_evaluator', [dict(type='CocoMetric', ann_file='x'), dict(type='DumpResults', out_file_path='x.pkl')]),
        (
            PIPELINE,
            [dict(type='RandomChoice', transforms=[[dict(type='Resize', scale=1)], [dict(type='Pad', size=1)]])],
        ),
        ('train_dataloader.dataset', dict(_delete_=True, type='ConcatDataset', datasets=[dict(type='CocoDataset')])),
        ('train_cfg', dict(_delete_=True, by_epoch=True, max_epochs=1)),
    ],
)
def test_what_is_accepted(key, value):
    check({key: value})


def test_parts_of_ones_own():
    @MODELS.register_module(force=True)
    class OwnBackbone(nn.Module):
        pass

    try:
        # What it makes of its arguments is its own business.
        own = dict(_delete_=True, type='OwnBackbone', block=dict(type='a'), more=[dict(type='b', nms=dict(type='c'))])
        check({'model.backbone': own})
        check({'model.backbone': dict(own, type=OwnBackbone)})
        with pytest.raises(KeyError, match="nearest: 'OwnBackbone'"):
            check({'model.backbone.type': 'OwnBackbon'})
    finally:
        MODELS.module_dict.pop('OwnBackbone')


def test_arguments_follow_kwargs_to_the_base_class():
    assert {'num_classes', 'fc_out_channels', 'init_cfg'} < arguments(Shared2FCBBoxHead)[0].keys()
    assert not {'self', 'kwargs'} & arguments(Shared2FCBBoxHead)[0].keys()
    assert {'ann_file', 'backend_args', 'lazy_init'} < arguments(DATASETS.get('CocoDataset'))[0].keys()

    class Anything:
        def __init__(self, a, **kwargs):
            pass

    class Nothing:
        pass

    assert set(arguments(Anything)[0]) == {'a'} and arguments(Anything)[1] and arguments(Nothing) == ({}, False)
    assert set(arguments(lambda a, *, b=1: None)[0]) == {'a', 'b'}
