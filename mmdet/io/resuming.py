"""Which checkpoint a run goes on from, and whether it can, by what is in it beside weights."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

from mmdet.io.checkpoint import check_checkpoint_file, is_dense
from mmdet.words import first_line, shorten


def find_checkpoint(work_dir: str, since: float = 0) -> str | None:
    """The checkpoint to resume from: the one that ``last_checkpoint`` names, or else the newest whole one.

    ``last_checkpoint`` may be lost with the machine, damaged, or name the place from which the work dir was moved.
    None if there is neither it nor a file ``epoch_*.pth`` or ``iter_*.pth``, written at ``since`` (seconds) or later.

    Raises:
        FileNotFoundError, ValueError: there are such files, but none can be read.
    """
    folder = Path(work_dir)
    pointer = folder / 'last_checkpoint'
    named = pointer.read_text(errors='backslashreplace').strip() if pointer.is_file() else ''
    if '://' in named:  # what only a stranger writes: mmdet's names a file
        named = ''
    times = {}
    for file in (file for pattern in ('epoch_*.pth', 'iter_*.pth') for file in folder.glob(pattern)):
        with suppress(OSError):  # a link to nowhere, or removed since
            times[file] = file.stat().st_mtime
    found = sorted((file for file in times if times[file] >= since), key=times.__getitem__, reverse=True)
    if since and pointer.is_file() and pointer.stat().st_mtime < since:
        named = ''
    problems: list[Exception] = []
    for path in ([named] if named else []) + [str(file) for file in found]:
        try:
            if not os.path.isfile(path):  # a name of published weights is none of a run's
                raise FileNotFoundError
            check_checkpoint_file(path)
        except FileNotFoundError:
            problems.append(FileNotFoundError(f'{pointer}: names {path[:200]!r}, which is not there'))
        except ValueError as error:
            if str(error) not in map(str, problems):  # the pointer's is met again among the files
                problems.append(error)
        else:
            if problems:
                print_log(
                    f'--resume: {"; ".join(map(str, problems))}; going on from {path}', 'current', logging.WARNING
                )
            return path
    if problems:
        raise problems[0]
    return None


@contextmanager
def blame(path: str) -> Iterator[None]:
    """What goes wrong within is put down to the contents of the checkpoint ``path``: a ValueError that names it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of what somebody has changed anything
        if f'checkpoint {path}' in str(error):
            raise
        kind = '' if type(error) is ValueError else f'{type(error).__name__}: '
        raise ValueError(f'checkpoint {path}: cannot be resumed from: {kind}{first_line(error)}') from error


#: of torch's optimizers
_LIKE_THE_PARAMETER = (
    'momentum_buffer',
    'exp_avg',
    'exp_avg_sq',
    'max_exp_avg_sq',
    'exp_inf',
    'square_avg',
    'grad_avg',
    'acc_delta',
    'ax',
    'prev',
    'step_size',
    'sum',
)


def check_resumable(checkpoint: dict, known: dict) -> None:
    """Whether a run could have written what is not weights in a checkpoint.

    Args:
        checkpoint: its contents.
        known: what the run that resumes would write: ``message_hub`` and, if there are any, ``optimizer`` and
            ``param_schedulers``; with ``optimizer`` the ``parameters``, in the order of its groups.

    Raises:
        ValueError: something is missing or of another kind, named by its keys.
    """
    meta = checkpoint.get('meta') or {}
    for key in ('epoch', 'iter'):
        if not _is_count(meta.get(key)):
            raise ValueError(f'meta.{key} must be a number of 0 or more, got {shorten(meta.get(key))}')
    if not isinstance(meta.get('seed', 0), (int, type(None))) or not 0 <= (meta.get('seed') or 0) < 2**32:
        raise ValueError(f'meta.seed must be a number from 0 to 2**32 - 1, got {shorten(meta["seed"])}')
    had, own = (_first_group(one.get('optimizer')) for one in (checkpoint, known))
    # flags come with versions of torch
    lacking = [key for key, value in own.items() if key not in had and not isinstance(value, (bool, type(None)))]
    if had and lacking:
        raise ValueError(
            'its optimizer is another than that of optim_wrapper: optimizer.param_groups.0 has no '
            f'{", ".join(lacking)}. Set optim_wrapper as it was, or start anew from the weights: load_from instead of '
            '--resume'
        )
    for key in ('message_hub', 'optimizer', 'param_schedulers'):
        if key in known and (key in checkpoint or key == 'message_hub'):  # save_optimizer=False leaves it out
            _check_alike(checkpoint.get(key), known[key], key)
    hub = checkpoint['message_hub']
    for key, value in hub['log_scalars'].items():
        history = (
            [vars(value).get(f'_{name}_history') for name in ('log', 'count')]
            if isinstance(value, HistoryBuffer)
            else []
        )
        if not history or not all(
            isinstance(one, np.ndarray) and one.ndim == 1 and one.dtype.kind in 'iufb' and len(one) == len(history[0])
            for one in history
        ):
            raise ValueError(
                f'message_hub.log_scalars.{key} must be a HistoryBuffer with as many values as counts, '
                f'got {shorten(value)}'
            )
    for key, value in hub['resumed_keys'].items():
        saved = key in hub['log_scalars'] or key in hub['runtime_info']
        if not isinstance(value, bool) or value != saved:  # what is not to be resumed is not saved
            raise ValueError(f'message_hub.resumed_keys.{key} must be {saved}, got {shorten(value)}')
    info = hub['runtime_info']
    for key, kind in (('interrupted_ckpt', str), ('train_epoch', dict), ('unvalidated', bool), ('last_ckpt', str)):
        if not isinstance(info.get(key), (kind, type(None))):
            raise ValueError(f'message_hub.runtime_info.{key} must be a {kind.__name__}, got {shorten(info[key])}')
    for key in ('epoch', 'first_iter', 'length'):
        if info.get('train_epoch') is not None and not _is_count(info['train_epoch'].get(key)):
            raise ValueError(f'message_hub.runtime_info.train_epoch.{key} must be a number of 0 or more')
    if 'optimizer' not in known or 'optimizer' not in checkpoint:
        return
    ids = [one for group in checkpoint['optimizer']['param_groups'] for one in group.get('params', ())]
    parameters = dict(zip(ids, known['parameters']))
    if len(parameters) != len(ids) or len(ids) != len(known['parameters']):
        raise ValueError(
            f'optimizer.param_groups must hold {len(known["parameters"])} parameters, each once, got {len(parameters)}'
        )
    for index, state in checkpoint['optimizer']['state'].items():
        where = f'optimizer.state.{index}'
        if index not in parameters or not isinstance(state, dict):
            raise ValueError(f'{where} must be a dict of one of the parameters, got {shorten(state)}')
        shape = parameters[index].shape
        for key, value in state.items():
            if key in _LIKE_THE_PARAMETER:
                if value is not None and not (is_dense(value) and value.shape == shape):
                    raise ValueError(f'{where}.{key} must be of the shape {tuple(shape)}, got {shorten(value)}')
            elif not (value is None or isinstance(value, (int, float, list, tuple, dict)) or is_dense(value)):
                raise ValueError(f'{where}.{key} must be a number or a tensor, got {shorten(value)}')


def _first_group(optimizer: Any) -> dict:
    """The first group of parameters of an optimizer's state."""
    groups = optimizer.get('param_groups') if isinstance(optimizer, dict) else None
    return groups[0] if isinstance(groups, list) and groups and isinstance(groups[0], dict) else {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _check_alike(value: Any, known: Any, where: str) -> None:
    """Dicts as dicts, lists as lists, numbers as numbers, as far as both have them. Numbers must be there."""
    if known is None or isinstance(known, bool):
        return
    if value is None and isinstance(known, float) and where.startswith('param_schedulers'):  # eta_min not set
        return
    kinds: Any = next(kinds for kinds in (dict, (list, tuple), (int, float), str, object) if isinstance(known, kinds))
    if (
        not isinstance(value, kinds)
        or kinds == (int, float)
        and not abs(value) < 2**63
        or (where.endswith('.param_name') and value != known)
    ):
        raise ValueError(f'{where} must be as {shorten(known)}, got {shorten(value)}')
    if isinstance(known, (list, tuple)):
        value, known = dict(enumerate(value)), dict(enumerate(known))
    for key in known if isinstance(known, dict) else ():
        if key in value or where.startswith(('optimizer', 'message_hub')):
            _check_alike(value.get(key), known[key], f'{where}.{key}')
