"""Gradients that wait for a step of the optimizer, through a checkpoint."""

import logging

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet.io.resuming import blame
from mmdet.registry import HOOKS
from mmdet.run.ranks import bare

Gradients = dict[str, Tensor]


def gather_gradients(model: nn.Module) -> list[Gradients]:
    """Return each process' gradients by parameter name, on the CPU; an empty list where no process has any.

    A collective: every process calls it. Only the first gets them; the others get an empty list.
    """
    gradients: list[Gradients] = []
    for name, parameter in bare(model).named_parameters():
        if not parameter.requires_grad:
            continue
        own = None if parameter.grad is None else parameter.grad.detach().cpu()
        states = all_gather_object(own)  # one by one: NCCL sends through GPU memory
        if is_main_process() and any(state is not None for state in states):
            gradients = gradients or [{} for _ in states]
            for each, state in zip(gradients, states):
                if state is not None:
                    each[name] = state
    return gradients


@HOOKS.register_module()
class GradientHook(Hook):
    """Keeps gradients that wait for a step of the optimizer in the checkpoints (``accumulative_counts`` above 1).

    They are saved under the checkpoint's key ``gradients``: a list with a dict (parameter name to gradient) for each
    process, where an accumulation has begun. A resumed run goes on with them. With another number of processes each
    takes the mean of all, so that their mean, which the optimizer sees, is the same.

    :class:`~mmdet.engine.DetRunner` adds it to every run; with mmengine's own runner the first process saves its own.
    """

    def __init__(self) -> None:
        self._saved: list[Gradients] | None = None
        self._collected: list[Gradients] | None = None

    def collect_checkpoint(self, runner: Runner) -> None:
        """Gather all processes' gradients; :class:`~mmdet.engine.DetRunner` calls it in each before it saves."""
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        self._collected = gather_gradients(runner.model) if counts > 1 else []

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the gradients into the checkpoint, if there are some."""
        collected, self._collected = self._collected, None
        if collected is None:
            named = bare(runner.model).named_parameters()
            own = {name: value.grad.detach().cpu() for name, value in named if value.grad is not None}
            collected = [own] if own else []
        if collected:
            checkpoint['gradients'] = collected

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the checkpoint's gradients until :meth:`before_train`."""
        self._saved = checkpoint.get('gradients')

    def before_train(self, runner: Runner) -> None:
        """Give a resumed run its gradients back, or say that they are lost."""
        saved, self._saved = self._saved, None
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if not runner._resume or not runner.iter % counts:
            return
        if not saved:
            print_log(
                f'resumed at iteration {runner.iter}, inside an accumulation of {counts}, from a checkpoint that has '
                'no gradients: those before it are lost',
                'current',
                logging.WARNING,
            )
            return
        with blame(runner._load_from or runner.work_dir):
            _restore(saved, dict(bare(runner.model).named_parameters()))


def _restore(saved: list[Gradients], parameters: dict[str, nn.Parameter]) -> None:
    """Give parameters the gradients of this process, or of another number of processes their mean."""
    if not isinstance(saved, list) or not all(isinstance(one, dict) for one in saved):
        raise ValueError('gradients must be a list with a dict for each process')
    own = get_world_size() == len(saved)
    for name in dict.fromkeys(name for one in saved for name in one):
        values = [one[name] for one in ([saved[get_rank()]] if own else saved) if name in one]
        parameter = parameters.get(name)
        if parameter is None or not all(isinstance(v, Tensor) and v.shape == parameter.shape for v in values):
            raise ValueError(f'gradients.{name} is of no parameter of the model, or not of its shape')
        if values and parameter.requires_grad:
            total = torch.stack([value.to(parameter) for value in values]).sum(0)
            parameter.grad = total if own else total / len(saved)
