"""What CBN layers need from the runner."""

from typing import Any

from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdet.io.resuming import blame
from mmdet.ops.norm import CBN
from mmdet.registry import HOOKS
from mmdet.run.ranks import bare


def cbn_layers(model: nn.Module) -> dict[str, CBN]:
    """Return the CBN layers of a model by name, as in ``named_modules()`` of the bare model."""
    return {name: layer for name, layer in bare(model).named_modules() if isinstance(layer, CBN)}


def to_cpu(state: Any) -> Any:
    """Return nested dicts, lists and tuples with every tensor on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().cpu()
    if isinstance(state, dict):
        return {key: to_cpu(value) for key, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, '_fields'):
        return type(state)(*map(to_cpu, state))
    if isinstance(state, (list, tuple)):
        return type(state)(map(to_cpu, state))
    return state


def gather_windows(model: nn.Module) -> list[dict]:
    """Return each process' windows, a dict from layer name to ``window_state()`` with tensors on the CPU.

    A collective: every process calls it. Only the first gets them; the others get an empty list.
    """
    windows: list[dict] = []
    for name, layer in cbn_layers(model).items():
        # Layer by layer: NCCL sends through GPU memory.
        states = all_gather_object(to_cpu(layer.window_state()))
        if is_main_process():
            windows = windows or [{} for _ in states]
            for window, state in zip(windows, states):
                window[name] = state
    return windows


@HOOKS.register_module()
class CBNHook(Hook):
    """Tells CBN layers their names and an epoch's length, and keeps their windows in the checkpoints.

    The windows are saved under the checkpoint's key ``cbn_window``, beside the weights and not among them: a list with
    a dict (layer name to ``window_state()``) for each process. With mmengine's own runner, which saves in the first
    process only, the list has one entry. They come back when a run is resumed and are dropped when other weights are
    loaded. A process that has no entry, because there were fewer, starts with an empty window and no second burn-in.

    Example:
        The commands add it to every run; in the config of another script::

            default_hooks = dict(cbn=dict(type='CBNHook'))
    """

    def __init__(self) -> None:
        self._saved: list[dict] | None = None
        self._collected: list[dict] | None = None

    def before_train(self, runner: Runner) -> None:
        """Name the layers, tell them the epoch's length, and when a run is resumed give back their windows."""
        layers = cbn_layers(runner.model)
        for name, layer in layers.items():
            layer.layer_name = name
            layer.epoch_length = len(runner.train_dataloader)
        if runner._resume:
            with blame(runner._load_from or runner.work_dir):
                self._restore(runner, layers)
        active = [layer for layer in layers.values() if layer.training and layer.buffer_num]
        if active:
            first = active[0]
            runner.logger.info(
                f'CBN: {len(active)} layers, window of this batch and {first.buffer_num} earlier ones, '
                f'burn-in {first.burnin_steps} iterations'
            )

    def _restore(self, runner: Runner, layers: dict[str, CBN]) -> None:
        saved, self._saved = self._saved or [{}], None
        own = get_rank() < len(saved)
        windows = saved[get_rank() if own else 0]
        for name, layer in layers.items():
            if name in windows:
                layer.load_window_state(windows[name])
                if not own:
                    layer.drop_window()
            else:
                layer.step = runner.iter  # a run begun without CBN, or before this hook: no second burn-in

    def collect_checkpoint(self, runner: Runner) -> None:
        """Gather all processes' windows; :class:`~mmdet.engine.DetRunner` calls it in every process before it saves."""
        self._collected = gather_windows(runner.model)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the windows into the checkpoint; without :meth:`collect_checkpoint` before it this process' own."""
        windows, self._collected = self._collected, None
        if windows is None:
            own = {name: to_cpu(layer.window_state()) for name, layer in cbn_layers(runner.model).items()}
            windows = [own] if own else []
        if windows:
            checkpoint['cbn_window'] = windows

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the checkpoint's windows until :meth:`before_train`, which gives them to the layers of a resumed run."""
        # Called before the weights are loaded, which drops the windows: restored in before_train.
        saved: list | dict | None = checkpoint.get('cbn_window')
        self._saved = [saved] if isinstance(saved, dict) else saved  # a dict: written before there was a list
