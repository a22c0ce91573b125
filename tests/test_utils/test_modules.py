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
