"""Checks of what in a config is no part of a registry: mmengine's runner and torch's data loader read it."""

import importlib.util
import logging
import multiprocessing
from typing import Any

from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from .signatures import check_arguments, check_keys

#: keys of dicts that are no class's
KEYS = {
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'env_cfg.mp_cfg': ('mp_start_method', 'opencv_num_threads'),
    'randomness': ('seed', 'diff_rank_seed', 'deterministic'),
    'auto_scale_lr': ('enable', 'base_batch_size'),
}
PARAMWISE = (
    *('custom_keys', 'norm_decay_mult', 'bias_lr_mult', 'bias_decay_mult', 'dwconv_decay_mult', 'flat_decay_mult'),
    *('dcn_offset_lr_mult', 'bypass_duplicate'),
)
#: of a data loader, what mmengine builds
LOADER = (
    *('dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn', 'num_batch_per_epoch'),
    'disable_subprocess_warning',
)
CLIP_GRAD = dict(norm=nn.utils.clip_grad_norm_, value=nn.utils.clip_grad_value_)


def name_of(cfg: Config) -> str:
    """How messages call a config."""
    return f'config {cfg.filename}' if cfg.filename else 'config'


def plain(node: Any) -> Any:
    """Dicts and lists without lazy objects."""
    return node.to_dict() if hasattr(node, 'to_dict') else node


def check_plain(cfg: Config, training: bool) -> None:
    """Look at what no class reads, but mmengine's runner; with ``training`` at ``optim_wrapper``, too.

    Raises:
        TypeError: no dict, or a key that nobody reads. ValueError: a value that cannot be.
    """
    for path, known in KEYS.items():
        first, _, second = path.partition('.')
        node = plain(cfg.get(first)) or {}
        node = node.get(second) or {} if second else node
        check_keys(node, known, f'{name_of(cfg)}, {path}', 'there is no')
    seed, level, scope = (cfg.get('randomness') or {}).get('seed'), cfg.get('log_level'), cfg.get('default_scope')
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(f'{name_of(cfg)}, randomness.seed: must be a whole number, or None to draw one, got {seed!r}')
    if level is not None and not isinstance(logging.getLevelName(str(level).upper()), int):
        raise ValueError(f'{name_of(cfg)}, log_level: must be one of DEBUG, INFO, WARNING, ERROR, got {level!r}')
    if isinstance(scope, str) and importlib.util.find_spec(scope.partition('.')[0]) is None:
        raise ValueError(f"{name_of(cfg)}, default_scope: there is no package {scope!r}; set 'mmdet'")
    method = ((cfg.get('env_cfg') or {}).get('mp_cfg') or {}).get('mp_start_method')
    if method is not None and method not in multiprocessing.get_all_start_methods():
        methods = ', '.join(multiprocessing.get_all_start_methods())
        raise ValueError(f'{name_of(cfg)}, env_cfg.mp_cfg.mp_start_method: must be one of {methods}, got {method!r}')
    wrapper = plain(cfg.get('optim_wrapper')) or {}
    if not training or not isinstance(wrapper, dict):
        return
    path = f'{name_of(cfg)}, optim_wrapper'
    if wrapper.get('constructor', 'DefaultOptimWrapperConstructor') == 'DefaultOptimWrapperConstructor':
        paramwise = wrapper.get('paramwise_cfg') or {}
        check_keys(paramwise, PARAMWISE, f'{path}.paramwise_cfg', 'there is no')
        for key, node in (paramwise.get('custom_keys') or {}).items():
            check_keys(node, ('lr_mult', 'decay_mult'), f'{path}.paramwise_cfg.custom_keys.{key}', 'there is no')
    clip = wrapper.get('clip_grad') or {}
    kind = clip.get('type', 'norm') if isinstance(clip, dict) else 'norm'
    if kind not in CLIP_GRAD:
        raise ValueError(f"{path}.clip_grad.type: must be 'norm' or 'value', got {kind!r}")
    check_arguments(CLIP_GRAD[kind], clip, f'{path}.clip_grad')


def check_loader(path: str, loader: dict) -> None:
    """Look at the numbers and the arguments of a data loader, as :func:`check_plain`."""
    for key, least in (('batch_size', 1), ('num_workers', 0)):
        value = loader.get(key, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f'{path}.{key}: must be a whole number, {least} or more, got {value!r}')
    check_arguments(DataLoader, {key: value for key, value in loader.items() if key not in LOADER}, path)
    if not loader.get('num_workers', 0):
        for key in ('persistent_workers', 'prefetch_factor', 'timeout'):
            if loader.get(key):
                raise ValueError(f'{path}.{key}: {loader[key]!r} needs workers; set num_workers, or leave {key} out')
