"""Refuses a checkpoint that belongs to another model."""
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from mmdet.registry import HOOKS
from mmdet.utils.checkpoint import check_state_dict


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Raises ValueError, naming keys, before weights that do not fit are loaded.

    To test or to resume, every key must fit. To start training from a checkpoint (``load_from``), heads may differ,
    but something must fit.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        finetunes = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        check_state_dict(model, checkpoint, runner._load_from or runner.work_dir, finetunes)
