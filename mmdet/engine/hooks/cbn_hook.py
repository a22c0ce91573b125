"""What CBN layers need from the runner."""
from typing import Optional

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmdet.ops.norm import CBN
from mmdet.registry import HOOKS


def cbn_layers(model: nn.Module) -> dict[str, CBN]:
    """The CBN layers of a model by name."""
    if is_model_wrapper(model):
        model = model.module
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, CBN)}


@HOOKS.register_module()
class CBNHook(Hook):
    """Tells CBN layers their names and an epoch's length, and keeps their windows in the checkpoints.

    The windows are saved under the checkpoint's key ``cbn_window``, beside the weights and not among them. They
    come back when a run is resumed and are dropped when other weights are loaded.
    """

    def __init__(self) -> None:
        self._saved: Optional[dict] = None

    def before_train(self, runner: Runner) -> None:
        layers = cbn_layers(runner.model)
        for name, layer in layers.items():
            layer.layer_name = name
            layer.epoch_length = len(runner.train_dataloader)
        if runner._resume:
            self._restore(runner, layers)
        active = [layer for layer in layers.values() if layer.training and layer.buffer_num]
        if active:
            first = active[0]
            runner.logger.info(f'CBN: {len(active)} layers, window of this batch and {first.buffer_num} earlier ones, '
                               f'burn-in {first.burnin_steps} iterations')

    def _restore(self, runner: Runner, layers: dict[str, CBN]) -> None:
        saved, self._saved = self._saved, None
        for name, layer in layers.items():
            if saved and name in saved:
                layer.load_window_state(saved[name])
                if get_rank() != 0:  # the file holds the windows of rank 0; the others' fill within a few batches
                    layer.drop_window()
            else:
                layer.step = runner.iter  # a run begun without CBN, or before this hook: no second burn-in

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        windows = {name: layer.window_state() for name, layer in cbn_layers(runner.model).items()}
        if windows:
            checkpoint['cbn_window'] = windows

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        # Called before the weights are loaded, which drops the windows: restored in before_train.
        self._saved = checkpoint.get('cbn_window')
