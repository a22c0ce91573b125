"""What scripts import from mmdet.utils."""

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope

from mmdet.utils import get_test_pipeline_cfg, register_all_modules, setup_cache_size_limit_of_dynamo


def test_test_pipeline_of_wrapped_data_sets(tiny_config):
    steps = [dict(type='LoadImageFromFile')]
    inner = dict(type='CocoDataset', pipeline=steps)
    for dataset in (inner, dict(type='RepeatDataset', dataset=inner), dict(type='ConcatDataset', datasets=[inner])):
        assert get_test_pipeline_cfg(Config(dict(test_dataloader=dict(dataset=dataset)))) == steps
    assert get_test_pipeline_cfg(str(tiny_config))[-1].type == 'PackDetInputs'
    with pytest.raises(KeyError, match='no test_dataloader.dataset.pipeline'):
        get_test_pipeline_cfg(Config(dict(test_dataloader=dict(dataset=dict(type='CocoDataset')))))


def test_without_a_test_images_are_resized_as_in_training():
    def made(*resize, **loaders):
        steps = [dict(type='LoadImageFromFile', to_float32=True), *resize, dict(type='RandomCrop'), dict(type='Pack')]
        cfg = Config(dict(loaders, train_dataloader=dict(dataset=dict(pipeline=steps))))
        loading, resize, packing = get_test_pipeline_cfg(cfg)
        assert loading == steps[0] and packing == dict(type='PackDetInputs') and resize.pop('type') == 'Resize'
        return dict(resize)

    assert made(dict(type='Resize', scale=(64, 48), keep_ratio=False), test_dataloader=None) == dict(
        scale=(64, 48), keep_ratio=False
    )
    several = [(64, 48), (80, 60), (48, 36)]
    assert made(dict(type='mmdet.RandomChoiceResize', scales=several)) == dict(scale=(80, 60), keep_ratio=True)
    assert made(dict(type='RandomResize', scale=several[:2], keep_ratio=True))['scale'] == (80, 60)
    assert made(dict(type='Resize', scale_factor=2.0)) == dict(scale_factor=2.0, keep_ratio=True)
    val = [dict(type='LoadImageFromFile')]
    cfg = Config(dict(test_dataloader=None, val_dataloader=dict(dataset=dict(pipeline=val))))
    assert get_test_pipeline_cfg(cfg) == val


def test_scope_is_set_only_if_asked():
    init_default_scope('mmengine')
    register_all_modules(init_default_scope=False)
    assert DefaultScope.get_current_instance().scope_name == 'mmengine'
    register_all_modules()
    assert DefaultScope.get_current_instance().scope_name == 'mmdet'


def test_dynamo_limit(monkeypatch):
    import torch._dynamo

    monkeypatch.setattr(torch._dynamo.config, 'cache_size_limit', 8)
    setup_cache_size_limit_of_dynamo()
    assert torch._dynamo.config.cache_size_limit == 4
    monkeypatch.setenv('DYNAMO_CACHE_SIZE_LIMIT', '6')
    setup_cache_size_limit_of_dynamo()
    assert torch._dynamo.config.cache_size_limit == 6
