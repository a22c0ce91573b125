"""What scripts written for mmdetection 3.x import from ``mmdet.utils``."""

import importlib
import os

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import init_default_scope as set_default_scope

from mmdet.config import inner_dataset
from mmdet.run.prepare import setup

#: the packages whose import fills the registries
PACKAGES = ('datasets', 'engine', 'evaluation', 'models', 'visualization')


def register_all_modules(init_default_scope: bool = True) -> None:
    """Fill the registries and, by default, make 'mmdet' the scope in which configs are looked up.

    Checkpoints are read and written as mmdet does it from here on, see :func:`~mmdet.run.prepare.setup`.
    """
    setup()
    for name in PACKAGES:
        importlib.import_module(f'mmdet.{name}')
    if init_default_scope:
        set_default_scope('mmdet')


def get_test_pipeline_cfg(cfg: str | Config | ConfigDict) -> ConfigDict:
    """Find the transforms of ``test_dataloader``'s data set, inside wrappers as well, or of ``val_dataloader``'s.

    Of a config without validation and test it is how training reads and resizes images, at the largest of its scales.

    Args:
        cfg: a config or its path.

    Raises:
        KeyError: there is none.
    """
    if isinstance(cfg, str):
        cfg = Config.fromfile(cfg)
    for name in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = inner_dataset((cfg.get(name) or {}).get('dataset') or {}, 'pipeline')
        if 'pipeline' in dataset and name != 'train_dataloader':
            return dataset.pipeline
    loading, sizes = [], []
    for step in dataset.get('pipeline', ()):
        kind = str(step.get('type')).rpartition('.')[2]
        if kind.startswith('LoadImage'):
            loading.append(step)
        elif 'Resize' in kind:
            sizes.append(step)
    if not loading or not sizes:
        raise KeyError(
            f'config {getattr(cfg, "filename", None) or ""}: there is no test_dataloader.dataset.pipeline, and in that '
            'of train_dataloader no LoadImageFromFile and Resize; give test_dataloader a pipeline'
        )
    resize = dict(type='Resize', keep_ratio=sizes[0].get('keep_ratio', True))
    scales = sizes[0].get('scales') or sizes[0].get('scale') or ()
    if scales:
        resize['scale'] = tuple(max(scales, key=sum) if isinstance(scales[0], (list, tuple)) else scales)
    else:
        resize['scale_factor'] = sizes[0].get('scale_factor', 1.0)
    print_log(f'the config has no test_dataloader: images are resized as in training, {resize}', 'current')
    return ConfigDict(pipeline=[loading[0], resize, dict(type='PackDetInputs')]).pipeline


def setup_cache_size_limit_of_dynamo() -> None:
    """Let torch.compile keep as many versions of a function as the environment's DYNAMO_CACHE_SIZE_LIMIT says, or 4.

    Images of many sizes would otherwise be compiled for without end.
    """
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = int(os.environ.get('DYNAMO_CACHE_SIZE_LIMIT', 4))
