"""Child registries of mmengine's: a config names a part, the registry builds it.

``locations`` are imported at the first look-up, so ``type='FasterRCNN'`` works
in a config without an import by the caller.
"""
from mmengine.registry import DATA_SAMPLERS as ENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as ENGINE_DATASETS
from mmengine.registry import HOOKS as ENGINE_HOOKS
from mmengine.registry import METRICS as ENGINE_METRICS
from mmengine.registry import MODELS as ENGINE_MODELS
from mmengine.registry import TASK_UTILS as ENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as ENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as ENGINE_VISUALIZERS
from mmengine.registry import Registry

__all__ = ['MODELS', 'TASK_UTILS', 'DATASETS', 'DATA_SAMPLERS', 'TRANSFORMS', 'METRICS', 'HOOKS', 'VISUALIZERS']

MODELS = Registry('model', parent=ENGINE_MODELS, locations=['mmdet.models'])
TASK_UTILS = Registry('task util', parent=ENGINE_TASK_UTILS, locations=['mmdet.models'])
DATASETS = Registry('dataset', parent=ENGINE_DATASETS, locations=['mmdet.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=ENGINE_DATA_SAMPLERS, locations=['mmdet.datasets'])
TRANSFORMS = Registry('transform', parent=ENGINE_TRANSFORMS, locations=['mmdet.datasets.transforms'])
METRICS = Registry('metric', parent=ENGINE_METRICS, locations=['mmdet.evaluation'])
HOOKS = Registry('hook', parent=ENGINE_HOOKS, locations=['mmdet.engine'])
VISUALIZERS = Registry('visualizer', parent=ENGINE_VISUALIZERS, locations=['mmdet.visualization'])
