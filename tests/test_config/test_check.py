"""mmdet/config/check.py: names that there are not are refused, and nothing else."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

from mmdet.config import check_model_config
from mmdet.config.check import arguments, check_parts
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
        ('optim_wrapper.optimizer.type', 'torch.optim.Adam'),
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
    assert {'num_classes', 'fc_out_channels', 'init_cfg'} < arguments(Shared2FCBBoxHead)
    assert 'self' not in arguments(Shared2FCBBoxHead) and 'kwargs' not in arguments(Shared2FCBBoxHead)
    assert {'ann_file', 'backend_args', 'lazy_init'} < arguments(DATASETS.get('CocoDataset'))

    class Anything:
        def __init__(self, a, **kwargs):
            pass

    class Nothing:
        pass

    assert arguments(Anything) is None and arguments(Nothing) == set()
    assert arguments(lambda a, *, b=1: None) == {'a', 'b'}
