"""Child registries of mmengine's: a config names a part, the registry builds it.

``locations`` are imported at the first look-up, so ``type='FasterRCNN'`` works in a config without an import by the
caller. What is not found here is looked for in mmengine's registry.
"""

from mmengine import registry as engine
from mmengine.registry import Registry
from torch import nn

from mmdet.ops.norm import build as norm

MODELS = Registry('model', parent=engine.MODELS, locations=['mmdet.models'])
TASK_UTILS = Registry('task util', parent=engine.TASK_UTILS, locations=['mmdet.models'])
DATASETS = Registry('dataset', parent=engine.DATASETS, locations=['mmdet.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=engine.DATA_SAMPLERS, locations=['mmdet.datasets'])
TRANSFORMS = Registry('transform', parent=engine.TRANSFORMS, locations=['mmdet.datasets.transforms'])
METRICS = Registry('metric', parent=engine.METRICS, locations=['mmdet.evaluation'])
HOOKS = Registry('hook', parent=engine.HOOKS, locations=['mmdet.engine'])
VISUALIZERS = Registry('visualizer', parent=engine.VISUALIZERS, locations=['mmdet.visualization'])

# Nothing of ours is in these; without them mmengine warns at each look-up from the scope 'mmdet'.
RUNNERS = Registry('runner', parent=engine.RUNNERS, locations=['mmdet.engine'])
RUNNER_CONSTRUCTORS = Registry('runner constructor', parent=engine.RUNNER_CONSTRUCTORS, locations=['mmdet.engine'])
LOOPS = Registry('loop', parent=engine.LOOPS, locations=['mmdet.engine'])
STRATEGIES = Registry('strategy', parent=engine.STRATEGIES, locations=['mmdet.engine'])
OPTIMIZERS = Registry('optimizer', parent=engine.OPTIMIZERS, locations=['mmdet.engine'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=engine.OPTIM_WRAPPERS, locations=['mmdet.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=engine.OPTIM_WRAPPER_CONSTRUCTORS, locations=['mmdet.engine']
)
PARAM_SCHEDULERS = Registry('parameter scheduler', parent=engine.PARAM_SCHEDULERS, locations=['mmdet.engine'])
LOG_PROCESSORS = Registry('log_processor', parent=engine.LOG_PROCESSORS, locations=['mmdet.engine'])
MODEL_WRAPPERS = Registry('model_wrapper', parent=engine.MODEL_WRAPPERS, locations=['mmdet.engine'])
WEIGHT_INITIALIZERS = Registry('weight initializer', parent=engine.WEIGHT_INITIALIZERS, locations=['mmdet.models'])
EVALUATOR = Registry('evaluator', parent=engine.EVALUATOR, locations=['mmdet.evaluation'])
VISBACKENDS = Registry('vis_backend', parent=engine.VISBACKENDS, locations=['mmdet.visualization'])

for _name, _layer in norm.NORMS.items():
    if _layer.__module__.startswith('mmdet.'):
        MODELS.register_module(_name, module=_layer)


def _find_norm(name: str) -> type | None:
    return MODELS.get(name) or norm.NORMS.get(name)


def build_norm_layer(cfg: dict, num_features: int, postfix: int | str = '') -> tuple[str, nn.Module]:
    """``mmdet.ops.norm.build_norm_layer`` of the registered norms, those of others among them."""
    return norm.build_norm_layer(cfg, num_features, postfix, _find_norm)
