"""Refuses a checkpoint that belongs to another model, and to write one with numbers that are none."""

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from mmdet.io.checkpoint import check_state_dict
from mmdet.io.resuming import check_resumable
from mmdet.registry import HOOKS
from mmdet.run.ranks import bare


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Refuses weights that do not fit the model, and to save numbers that are not finite.

    It raises ValueError, naming keys, before weights that do not fit are loaded. To test or to resume, every key must
    fit, and to resume all else as well. To start training from a checkpoint (``load_from``), heads may differ, but
    something must fit.

    To save, weights, statistics, averages and the optimizer's state must be finite, or FloatingPointError is raised and
    nothing is written; of a window no number may be NaN. What is not finite when training begins, a constant, may stay.

    Example:
        The commands add it to every run; in the config of another script::

            custom_hooks = [dict(type='CheckpointCheckHook')]
    """

    priority = 'LOWEST'  # after those that add to a checkpoint

    def __init__(self) -> None:
        self._constant: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Remember which of the model's tensors are not finite from the start."""
        self._constant = set(_not_finite(dict(state_dict=bare(runner.model).state_dict())))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that the checkpoint's numbers are finite; FloatingPointError names the keys of those that are not."""
        bad = [key for key in _not_finite(checkpoint) if key not in self._constant]
        if bad:
            more = f' and {len(bad) - 5} more' if len(bad) > 5 else ''
            raise FloatingPointError(
                f'iteration {runner.iter}: the checkpoint is not written, as it would hold numbers that are not '
                f'finite: {", ".join(bad[:5])}{more}. Go on from the one before, with a lower learning rate or '
                'gradients clipped (optim_wrapper.clip_grad)'
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that the checkpoint fits; ValueError says what does not."""
        finetunes = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        check_state_dict(bare(runner.model), checkpoint, runner._load_from or runner.work_dir, finetunes)
        if runner._resume:
            check_resumable(checkpoint, _state(runner))
            missing = [key for key in ('optimizer', 'param_schedulers') if key not in checkpoint]
            if missing:
                runner.logger.warning(
                    f'checkpoint {runner._load_from or runner.work_dir}: holds no '
                    f'{" and no ".join(missing)}; the run does not go on as it would have'
                )


def _state(runner: Runner) -> dict:
    """What the run would write at its start, see :func:`check_resumable`."""
    known: dict[str, Any] = dict(message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}))
    if isinstance(runner.optim_wrapper, OptimWrapper) and not isinstance(runner.optim_wrapper, OptimWrapperDict):
        known['optimizer'] = dict(
            state={},
            param_groups=[
                {key: value for key, value in group.items() if key not in ('params', 'initial_lr')}
                for group in runner.optim_wrapper.state_dict()['param_groups']
            ],
        )
        # not the wrapper's groups, which with paramwise_cfg have one more, of no parameter
        groups = runner.optim_wrapper.optimizer.param_groups
        known['parameters'] = [one for group in groups for one in group['params']]
    if isinstance(runner.param_schedulers, list) and not any(isinstance(one, dict) for one in runner.param_schedulers):
        known['param_schedulers'] = [one.state_dict() for one in runner.param_schedulers]
    return known


def _not_finite(node: Any, path: str = '') -> Iterator[str]:
    """Keys of tensors with a number that is NaN or, but in windows, infinite; the log is left out."""
    if isinstance(node, Tensor):
        if node.is_floating_point() and not (~node.isnan() if path.startswith('cbn_window') else node.isfinite()).all():
            yield path
    elif isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        for key, value in node.items():
            if path or key not in ('message_hub', 'meta'):
                yield from _not_finite(value, f'{path}.{key}' if path else str(key))
