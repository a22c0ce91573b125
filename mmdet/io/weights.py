"""Which weights of a checkpoint do not fit a model, and what that looks like."""

from collections import defaultdict
from typing import NamedTuple

from torch import Tensor, nn

#: lines of a listing
LONGEST = 12
CONVERTER = 'mmdet convert torchvision'
#: keys that only another toolbox's models have
FOREIGN = (
    (
        ('backbone.body.', 'rpn.head.', 'roi_heads.mask_predictor.'),
        f'These are the keys of a torchvision detector; {CONVERTER} converts Faster R-CNN and Mask R-CNN.',
    ),
    (
        ('backbone.bottom_up.', 'proposal_generator.', 'roi_heads.'),
        f"These are the keys of a detectron2 detector, which cannot be converted; {CONVERTER} converts torchvision's.",
    ),
)
#: layers with a row for each class, and for the background beside them
CLASS_LAYERS = {'fc_cls.weight': 1, 'conv_logits.weight': 0}


class Differences(NamedTuple):
    """Keys by what is wrong with them; a counter of batches decides nothing in the forward and is not among them."""

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    fits: bool  # one weight fits

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)


def find_differences(model: nn.Module, weights: dict[str, Tensor]) -> Differences:
    """Compare a model's own names and shapes with those of a checkpoint."""
    own = _without_counters(model.state_dict())
    found = _without_counters(weights)
    both = [key for key in own if key in found]
    mismatched = [key for key in both if own[key].shape != found[key].shape]
    return Differences(
        [key for key in own if key not in found],
        [key for key in found if key not in own],
        mismatched,
        len(both) > len(mismatched),
    )


def _without_counters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not key.endswith('num_batches_tracked')}


def describe_differences(differences: Differences, model: nn.Module, weights: dict[str, Tensor]) -> str:
    """A table of the modules, with one key of each, and what the differences come from if that can be told."""
    own = model.state_dict()
    rows = [('', 'keys', 'module', 'for instance')]
    for kind in ('missing', 'unexpected', 'mismatched'):
        modules = defaultdict(list)
        for key in getattr(differences, kind):
            modules['.'.join(key.split('.')[:-1][:2]) or key].append(key)
        for module, keys in modules.items():
            example = keys[0].removeprefix(f'{module}.')
            if kind == 'mismatched':
                example += f' {tuple(weights[keys[0]].shape)}, the model has {tuple(own[keys[0]].shape)}'
            rows.append((kind, str(len(keys)), module, example))
    left = len(rows) - 1 - LONGEST
    rows = rows[: LONGEST + 1]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f'  {a:{widths[0]}}  {b:>{widths[1]}}  {c:{widths[2]}}  {d}' for a, b, c, d in rows]
    if left > 0:
        lines.append(f'  and {left} more modules')
    return '\n'.join(lines + _reasons(differences, own, weights))


def _reasons(differences: Differences, own: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """What the differences look like, a sentence each."""
    for prefixes, text in FOREIGN:
        if any(key.startswith(prefixes) for key in differences.unexpected):
            return [text]
    names = set(own)
    first = next(iter(weights)).partition('.')[0] + '.'
    if all(key.startswith(first) for key in weights):
        bare = {key.removeprefix(first) for key in weights}
        if 2 * len(bare & names) > len(bare):
            return [
                f"Every key of the checkpoint begins with '{first}'; without it, most fit. Save them under shorter "
                'names.'
            ]
    for module in dict.fromkeys(key.partition('.')[0] for key in own):
        if 2 * len({f'{module}.{key}' for key in weights} & names) > len(weights):
            return [
                f'These are the weights of a {module} alone; set model.{module}.init_cfg='
                "dict(type='Pretrained', checkpoint=...) to start from them."
            ]
    if differences.unexpected and all(key.startswith('ema_') for key in differences.unexpected):
        return [
            "The unexpected keys are the averages of mmdetection 2.x's EMA hook, which it keeps beside the "
            'weights; save the file without them.'
        ]
    layers = defaultdict(list)
    for key in differences.mismatched:
        for end, background in CLASS_LAYERS.items():
            if key.endswith(end) and weights[key].shape[:1] != own[key].shape[:1]:
                numbers = tuple(len(weight) - background for weight in (weights[key], own[key]))
                layers[numbers].append(key.removesuffix('.weight'))
    return [
        f"It looks like another number of classes: the checkpoint's {' and '.join(names)} of {found}, the model's "
        f'of {wanted}. Set num_classes in the config.'
        for (found, wanted), names in layers.items()
    ]
