"""mmengine's runner, with a place for what other processes have to add to a checkpoint."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import MMLogger, print_log
from mmengine.runner import BaseLoop, Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from mmdet.config import build_model
from mmdet.io.resuming import blame
from mmdet.registry import RUNNERS
from mmdet.run.interrupt import Interrupted, shield_worker
from mmdet.run.prepare import keep_memory, setup
from mmdet.run.ranks import Watch, check_timeout
from mmdet.words import first_line

from ..hooks.gradient_hook import GradientHook
from ..terminal import introduction, quiet
from .checks import check_run, compare_classes, settings, warn_of_changed, warn_of_overridden
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop
from .val_loop import ValLoop


def _forgiving(write: Callable, name: str) -> Callable:
    """``write`` without its OSErrors, of which the first is logged."""
    said: list[OSError] = []

    @wraps(write)
    def forgiving(*args, **kwargs) -> Any:
        try:
            return write(*args, **kwargs)
        except OSError as error:
            if not said:
                print_log(
                    f'{name}: what it logs cannot be written ({error}); the training goes on without',
                    'current',
                    logging.WARNING,
                )
            said.append(error)

    return forgiving


@contextmanager
def _section(key: str, kinds: tuple = (AssertionError, TypeError, ValueError)) -> Iterator[None]:
    """What goes wrong within is put down to a section of the config."""
    try:
        yield
    except kinds as error:
        raise ValueError(f'{key}: {first_line(error)}') from error


def _start_worker(then: Callable[[int], None] | None, worker_id: int) -> None:
    """What a data loader's worker does first."""
    keep_memory()
    shield_worker(then, worker_id)


@RUNNERS.register_module()
class DetRunner(Runner):
    """Runs training, validation and test of a config; mmengine's Runner, made to be killed and resumed.

    Before a checkpoint is written, hooks that have a method ``collect_checkpoint(runner)`` are called in every process,
    and may communicate there; ``before_save_checkpoint`` runs in the first process only. However a run ends, hooks that
    have a method ``close_display(runner)`` are called. Of several processes each ends when another one has stopped
    answering for env_cfg.dist_cfg.timeout seconds (:class:`~mmdet.run.ranks.Watch`).

    A training that a signal ends has saved its state, see :mod:`mmdet.run.interrupt`. Arguments are mmengine's.

    Example:
        Train from a script; ``mmdet train`` also checks the config and adds hooks first::

            from mmdet.config import load_config
            from mmdet.engine import DetRunner

            cfg = load_config('configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
            cfg.work_dir = 'work_dirs/first'
            DetRunner.from_cfg(cfg).train()
    """

    _introduced = False

    def __init__(self, *args, **kwargs) -> None:
        setup()
        super().__init__(*args, **kwargs)
        if not any(isinstance(hook, GradientHook) for hook in self.hooks):
            self.register_hook(GradientHook())

    def train(self) -> Any:
        """Train; returns the model.

        Raises:
            Interrupted: a signal has ended the training, whose state is saved.
        """
        return self._run(super().train)

    def val(self) -> dict:
        """Validate; returns the metrics by name."""
        return self._run(super().val)

    def test(self) -> dict:
        """Test; returns the metrics by name."""
        return self._run(super().test)

    def _run(self, function: Callable) -> Any:
        if not self._introduced:
            self._introduced = True
            self.logger.info(introduction(self))
        try:
            with Watch(check_timeout((self.cfg.get('env_cfg') or {}).get('dist_cfg') or {}, 'config')):
                return function()
        except Interrupted:
            self.call_hook('after_run')  # closes TensorBoard's files
            raise
        finally:
            self.call_hook('close_display')

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """As in mmengine; environment, config and hooks go to the file only."""
        return quiet(super().build_logger(*args, **kwargs))

    @master_only
    def dump_config(self) -> None:
        """Write the merged config to the work dir as in mmengine, but not over the very file that it was read from."""
        source = Path(self.cfg.filename) if self.cfg.filename else None
        if source is None or not source.is_file() or source.resolve().parent != Path(self.work_dir).resolve():
            super().dump_config()

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """Build a data loader as in mmengine; the workers leave signals to this process."""
        built = Runner.build_dataloader(dataloader, *args, **kwargs)
        if built is not dataloader:
            built.worker_init_fn = partial(_start_worker, built.worker_init_fn)
        return built

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop as in mmengine, but ``by_epoch=True|False`` without a type means a loop of mmdet as well."""
        if isinstance(loop, dict) and 'by_epoch' in loop and 'type' not in loop:
            loop = dict(loop)
            loop['type'] = EpochBasedTrainLoop if loop.pop('by_epoch') else IterBasedTrainLoop
        with _section('train_cfg, train_dataloader', (AssertionError, TypeError)):
            return super().build_train_loop(loop)

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop as in mmengine, but a loop without a type is the one of mmdet."""
        if isinstance(loop, dict) and 'type' not in loop:
            loop = dict(loop, type=ValLoop)
        return super().build_val_loop(loop)

    #: where errors of writing go that do not end the run yet, a list while CheckpointHook saves
    write_errors: list | None = None

    def save_checkpoint(self, *args, **kwargs) -> None:
        """Save as in mmengine, but to be called in every process: the others wait for one that is missing."""
        self.call_hook('collect_checkpoint')
        try:
            super().save_checkpoint(*args, **kwargs)
        except OSError as error:
            if self.write_errors is None:
                raise
            self.write_errors.append(error)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model as in mmengine; an error names the config and the part."""
        if isinstance(model, dict) and model == self.cfg.get('model'):
            return build_model(self.cfg)
        return super().build_model(model)

    def build_optim_wrapper(self, *args, **kwargs) -> Any:
        """Build optimizer and wrapper as in mmengine; an error names the section of the config."""
        with _section('optim_wrapper'):
            return super().build_optim_wrapper(*args, **kwargs)

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """Register a hook as in mmengine; an error names it."""
        with _section(f'hook {hook.get("type")}' if isinstance(hook, dict) else 'hook'):
            super().register_hook(hook, priority)

    def build_param_scheduler(self, *args, **kwargs) -> Any:
        """Build schedulers as in mmengine; an error names the section of the config."""
        with _section('param_scheduler'):
            return super().build_param_scheduler(*args, **kwargs)

    def build_visualizer(self, visualizer: Any = None) -> Visualizer:
        """Build the visualizer as in mmengine; what it cannot write is left out, with a warning, and ends nothing."""
        built = super().build_visualizer(visualizer)
        for backend in built._vis_backends.values():
            for name in ('add_config', 'add_graph', 'add_image', 'add_scalar', 'add_scalars', 'close'):
                setattr(backend, name, _forgiving(getattr(backend, name), type(backend).__name__))
        return built

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: str | Callable = 'cpu',
    ) -> None:
        """Resume as in mmengine; the file is read to the CPU, where the other processes' windows take no GPU memory.

        Settings of optimizer and schedulers that the checkpoint brings are warned of where they are not the config's.
        """
        wanted = settings(self)
        with blame(filename):
            super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)
        warn_of_overridden(wanted, settings(self), filename)

    def load_or_resume(self) -> None:
        """Load or resume as in mmengine, once what the run will need was looked at (:func:`.check_run`)."""
        check_run(self)
        super().load_or_resume()

    def load_checkpoint(self, filename: str, *args, **kwargs) -> dict:
        """Load weights as in mmengine; returns the checkpoint.

        Raises:
            ValueError: to be resumed or tested, and trained with the data's classes in another order.
        """
        checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        compare_classes(self, checkpoint, filename)
        if self._resume:
            warn_of_changed(self, checkpoint, filename)
        return checkpoint
