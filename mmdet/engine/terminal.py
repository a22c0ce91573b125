"""What of a run's log the terminal gets; the log file has all of it."""

import logging
from collections import Counter

from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mmdet.ops.norm.build import NORMS
from mmdet.run.ranks import bare

#: module and function that log what only the file gets: environment and config, the order of hooks, ...
FILE_ONLY = {
    ('runner', '_log_env'),
    ('runner', '__init__'),
    ('runner', 'wrap_model'),
    ('checkpoint_hook', 'before_train'),
    ('resource_hook', 'before_train_iter'),
}


def for_terminal(record: logging.LogRecord) -> bool:
    """A logging filter for what writes to a terminal."""
    if record.levelno >= logging.WARNING:
        return True
    return (record.module, record.funcName) not in FILE_ONLY and not str(record.msg).startswith('Exp name')


def _useful(record: logging.LogRecord) -> bool:
    """Without what mmengine says of parts of its own that it still uses."""
    return not str(record.msg).startswith(('"FileClient" will be', '"HardDiskBackend" is the alias'))


def quiet(logger: MMLogger) -> MMLogger:
    """A run's logger, whose handlers but files get :func:`for_terminal`."""
    logger.addFilter(_useful)
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(for_terminal)
    return logger


def introduction(runner: Runner) -> str:
    """A line that says what runs, and where the rest stands."""
    model = bare(runner.model)
    number = sum(parameter.numel() for parameter in model.parameters())
    names = {kind: name for name, kind in reversed(NORMS.items())}
    kinds = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
    norms = Counter(
        names.get(type(layer), type(layer).__name__) for layer in model.modules() if isinstance(layer, kinds)
    )
    parts = ', '.join(f'{count} {name}' for name, count in norms.items())
    return (
        f'{runner.experiment_name.removesuffix(f"_{runner.timestamp}")}: {type(model).__name__}, '
        f'{number / 1e6:.1f} M parameters, norms: {parts or "none"}. Work dir: {runner.work_dir}; environment, config '
        f'and hooks: {runner.timestamp}/{runner.timestamp}.log in it'
    )
