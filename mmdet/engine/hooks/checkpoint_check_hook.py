"""Refuses a checkpoint that belongs to another model."""
from collections import Counter

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmdet.registry import HOOKS


def compare_checkpoint(model: nn.Module, state_dict: dict) -> dict[str, list[str]]:
    """Keys that differ between a model and a checkpoint: ``missing``, ``unexpected``, ``mismatched`` (shapes)."""
    own = model.state_dict()
    found = {key.removeprefix('module.'): value for key, value in state_dict.items()}
    # A counter of batches decides nothing in the forward.
    count = 'num_batches_tracked'
    return dict(
        missing=[key for key in own if key not in found and not key.endswith(count)],
        unexpected=[key for key in found if key not in own and not key.endswith(count)],
        mismatched=[f'{key} {tuple(found[key].shape)}, the model has {tuple(own[key].shape)}' for key in own
                    if key in found and found[key].shape != own[key].shape])


def describe(differences: dict[str, list[str]]) -> str:
    """The differences by module, a few keys of each kind."""
    lines = []
    for kind, keys in differences.items():
        if keys:
            modules = Counter('.'.join(key.split('.')[:2]) for key in keys)
            counts = ', '.join(f'{module} ({number})' for module, number in modules.most_common(6))
            lines.append(f'  {len(keys)} {kind}: {counts}; for instance {"; ".join(keys[:3])}')
    return '\n'.join(lines)


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Raises ValueError, naming keys, before weights that do not fit are loaded.

    To test or to resume, every key must fit. To start training from a checkpoint (``load_from``), heads may differ,
    but something must fit.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state_dict = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
        path = runner._load_from or runner.work_dir
        if not state_dict or not all(hasattr(value, 'shape') for value in state_dict.values()):
            raise ValueError(f"{path}: holds no weights; expected a dict with the key 'state_dict'")
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        differences = compare_checkpoint(model, state_dict)
        finetunes = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        if finetunes and len(differences['missing']) + len(differences['mismatched']) < len(model.state_dict()):
            return
        if any(differences.values()):
            raise ValueError(f'{path}: the checkpoint is of another model than the config\'s:\n{describe(differences)}')
