"""mmengine's runner, with a place for what other processes have to add to a checkpoint."""
from typing import Callable, Union

from mmengine.runner import BaseLoop, Runner

from mmdet.registry import RUNNERS

from .loops import EpochBasedTrainLoop, IterBasedTrainLoop


@RUNNERS.register_module()
class DetRunner(Runner):
    """Runs of mmdet.

    Before a checkpoint is written, hooks that have a method ``collect_checkpoint(runner)`` are called in every
    process, and may communicate there; ``before_save_checkpoint`` runs in the first process only.
    """

    def build_train_loop(self, loop: Union[BaseLoop, dict]) -> BaseLoop:
        """As in mmengine, but ``by_epoch=True|False`` without a type means the loops of mmdet as well."""
        if isinstance(loop, dict) and 'by_epoch' in loop and 'type' not in loop:
            loop = dict(loop)
            loop['type'] = EpochBasedTrainLoop if loop.pop('by_epoch') else IterBasedTrainLoop
        return super().build_train_loop(loop)

    def save_checkpoint(self, *args, **kwargs) -> None:
        """As in mmengine, but to be called in every process: the others wait for one that is missing."""
        self.call_hook('collect_checkpoint')
        super().save_checkpoint(*args, **kwargs)

    def resume(self, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True,
               map_location: Union[str, Callable] = 'cpu') -> None:
        """As in mmengine; the file is read to the CPU, where the other processes' windows take no GPU memory."""
        super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)
