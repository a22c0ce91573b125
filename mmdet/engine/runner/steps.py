"""Training steps: losses that are the mean over ranks, and none that is not finite."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet.engine.hooks.cbn_hook import cbn_layers
from mmdet.run.ranks import bare


class _Gradient(Exception):
    """Raised before a step of the optimizer, which then does not take place."""


class Steps:
    """Makes a runner's training steps.

    Losses are logged as the mean over all ranks. A step whose loss or gradient is not finite does not reach the
    weights: the run ends with FloatingPointError, which names the iteration, the losses, the images and the first
    module whose output was not finite. With ``skip_nonfinite=N`` in the config up to N such steps of a run are left out
    first, statistics of the norms and windows of CBN included, and logged.

    With a loss scale (float16) gradients that overflow are the scaler's business, as always.

    Args:
        runner: whose model and optimizers are built.

    Raises:
        ValueError: ``skip_nonfinite`` is no number of steps.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.limit = runner.cfg.get('skip_nonfinite', 0)
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or self.limit < 0:
            raise ValueError(
                f'config {runner.cfg.filename}, skip_nonfinite: must be a number of steps, 0 or more, got '
                f'{self.limit!r}'
            )
        wrapper = runner.optim_wrapper
        for one in wrapper.values() if hasattr(wrapper, 'optim_wrappers') else [wrapper]:
            one.optimizer.register_step_pre_hook(self._check_gradients)
        self._keys: list[str] = []  # of the losses, in the order in which they are averaged

    @staticmethod
    def _check_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # After DDP's mean they are the same on all ranks, and so is what is done about them.
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group['params']
            if parameter.grad is not None
        ]
        if not nn.utils.get_total_norm(gradients).isfinite():
            raise _Gradient

    def __call__(self, batch: Any, iteration: int, reseed: Any) -> dict | None:
        """Make one step on a batch.

        Args:
            batch: what the data loader gives, ``inputs`` and ``data_samples``.
            iteration: its number, from 0, for messages.
            reseed: called before the forward is run again, to find out where it went wrong.

        Returns:
            The losses by name, as the mean over all processes, or None of a step that was left out.

        Raises:
            FloatingPointError: a loss or gradient is not finite, and no more steps may be left out.
        """
        runner = self.runner
        kept = self._statistics() if self.limit else None
        try:
            outputs = self._mean(runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper))
            if all(_finite(value) for key, value in outputs.items() if 'loss' in key):
                return outputs
        except _Gradient:
            pass
        runner.optim_wrapper.zero_grad()
        seen = runner.message_hub.runtime_info.get('skipped_nonfinite', 0) + 1
        reseed()
        text = f'iteration {iteration + 1}: {self._diagnose(batch)}'
        if seen > self.limit:
            raise FloatingPointError(
                f'{text}. '
                + (f'{self.limit} such steps were left out before (skip_nonfinite). ' if self.limit else '')
                + 'No checkpoint was written since; go on from the last one with a lower learning rate, a longer '
                'warm-up or gradients clipped (optim_wrapper.clip_grad), or leave single steps out with '
                'skip_nonfinite=N in the config'
            )
        runner.message_hub.update_info('skipped_nonfinite', seen)
        if kept is not None:
            self._restore(kept)
        print_log(f'{text}. The step is left out, {seen} of at most {self.limit}', 'current', logging.WARNING)
        return None

    # -- the mean over ranks -------------------------------------------------------------------------------------

    def _mean(self, outputs: dict) -> dict:
        if get_world_size() == 1:
            return outputs
        numbers = {key: value for key, value in outputs.items() if _is_number(value)}
        self._keys = self._keys or sorted(numbers)  # the same on all ranks: those of one model
        packed = torch.zeros(2, len(self._keys), device=next(self.runner.model.parameters()).device)
        for i, key in enumerate(self._keys):
            if key in numbers:
                packed[0, i], packed[1, i] = _number(numbers[key]), 1
        all_reduce(packed)
        means = (packed[0] / packed[1]).tolist()
        return {**outputs, **{key: mean for key, mean in zip(self._keys, means) if key in numbers}}

    # -- what a skipped step leaves behind -----------------------------------------------------------------------

    def _statistics(self) -> tuple[list[Tensor], list[dict]]:
        model = self.runner.model
        return (
            [buffer.clone() for buffer in model.buffers()],
            [layer.window_state() for layer in cbn_layers(model).values()],
        )

    def _restore(self, kept: tuple[list[Tensor], list[dict]]) -> None:
        model = self.runner.model
        for buffer, value in zip(model.buffers(), kept[0]):
            buffer.copy_(value)
        for layer, state in zip(cbn_layers(model).values(), kept[1]):
            layer.load_window_state(state)

    # -- what went wrong -----------------------------------------------------------------------------------------

    def _diagnose(self, batch: Any) -> str:
        """The same forward again, in every process, as it may communicate."""
        model = self.runner.model
        inner = bare(model)
        wrapper = self.runner.optim_wrapper
        wrapper = next(iter(wrapper.values())) if hasattr(wrapper, 'optim_wrappers') else wrapper
        with torch.no_grad(), wrapper.optim_context(inner), _first_nonfinite(inner) as found:
            losses = inner._run_forward(inner.data_preprocessor(batch, True), mode='loss')
        bad = {key: _total(value) for key, value in losses.items() if not _finite(_total(value))}
        if bad:
            what = 'the loss is not finite: ' + ', '.join(f'{key} {float(value):g}' for key, value in bad.items())
        else:
            what = 'the gradient is not finite, or the loss of another rank; the losses here are ' + ', '.join(
                f'{key} {float(_total(value)):.4g}' for key, value in losses.items() if 'loss' in key
            )
        where = found[0] if found else 'none'
        return f'{what}; images {_images(batch)}; first module with an output that is not finite: {where}'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or isinstance(value, Tensor) and value.numel() == 1


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _finite(value: Any) -> bool:
    return not _is_number(value) or abs(_number(value)) < float('inf')


def _total(value: Any) -> Any:
    """A loss as mmengine adds it up: a tensor, or several in a list."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return sum(one.detach().float().mean() for one in values)


def _images(batch: Any) -> str:
    samples = batch.get('data_samples', ()) if isinstance(batch, dict) else ()
    paths = [str(sample.get('img_path', sample.get('img_id', '?'))) for sample in samples or ()]
    return ', '.join(paths) or 'unknown'


@contextmanager
def _first_nonfinite(model: nn.Module) -> Iterator[list[str]]:
    """A list that has the name of the first module, in the order of the forward, whose output is not finite."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(value.isfinite().all() for value in _tensors(output)):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
