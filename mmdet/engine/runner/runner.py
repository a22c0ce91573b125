"""mmengine's runner, with a place for what other processes have to add to a checkpoint."""
from functools import partial
from typing import Any, Callable, Union

from mmengine.runner import BaseLoop, Runner
from torch.utils.data import DataLoader

from mmdet.registry import RUNNERS
from mmdet.utils.interrupt import Interrupted, shield_worker
from mmdet.utils.ranks import Watch, check_timeout

from .loops import EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop


@RUNNERS.register_module()
class DetRunner(Runner):
    """Runs of mmdet.

    Before a checkpoint is written, hooks that have a method ``collect_checkpoint(runner)`` are called in every
    process, and may communicate there; ``before_save_checkpoint`` runs in the first process only. However a run ends,
    hooks that have a method ``close_display(runner)`` are called. Of several processes each ends when another one has
    stopped answering for env_cfg.dist_cfg.timeout seconds (:class:`~mmdet.utils.ranks.Watch`).

    A training that a signal ends has saved its state, see :mod:`mmdet.utils.interrupt`.
    """

    def train(self) -> Any:
        return self._run(super().train)

    def val(self) -> dict:
        return self._run(super().val)

    def test(self) -> dict:
        return self._run(super().test)

    def _run(self, function: Callable) -> Any:
        try:
            with Watch(check_timeout((self.cfg.get('env_cfg') or {}).get('dist_cfg') or {}, 'config')):
                return function()
        except Interrupted:
            self.call_hook('after_run')  # closes TensorBoard's files
            raise
        finally:
            self.call_hook('close_display')

    @staticmethod
    def build_dataloader(dataloader: Union[DataLoader, dict], *args, **kwargs) -> DataLoader:
        """As in mmengine; the workers leave signals to this process."""
        built = Runner.build_dataloader(dataloader, *args, **kwargs)
        if built is not dataloader:
            built.worker_init_fn = partial(shield_worker, built.worker_init_fn)
        return built

    def build_train_loop(self, loop: Union[BaseLoop, dict]) -> BaseLoop:
        """As in mmengine, but ``by_epoch=True|False`` without a type means the loops of mmdet as well."""
        if isinstance(loop, dict) and 'by_epoch' in loop and 'type' not in loop:
            loop = dict(loop)
            loop['type'] = EpochBasedTrainLoop if loop.pop('by_epoch') else IterBasedTrainLoop
        return super().build_train_loop(loop)

    def build_val_loop(self, loop: Union[BaseLoop, dict]) -> BaseLoop:
        """As in mmengine, but a loop without a type is the one of mmdet."""
        if isinstance(loop, dict) and 'type' not in loop:
            loop = dict(loop, type=ValLoop)
        return super().build_val_loop(loop)

    def save_checkpoint(self, *args, **kwargs) -> None:
        """As in mmengine, but to be called in every process: the others wait for one that is missing."""
        self.call_hook('collect_checkpoint')
        super().save_checkpoint(*args, **kwargs)

    def resume(self, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True,
               map_location: Union[str, Callable] = 'cpu') -> None:
        """As in mmengine; the file is read to the CPU, where the other processes' windows take no GPU memory."""
        super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)
