"""Which convolution feeds each norm of a model: by their order in it, or by running it."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..modes import evaluating
from .cbn import CBN
from .conv_stats import pads_same

FOLLOWS = {  # what can feed a norm of so many dimensions
    nn.BatchNorm1d: (nn.Linear, nn.Conv1d, nn.ConvTranspose1d),
    nn.BatchNorm2d: (nn.Conv2d, nn.ConvTranspose2d),
    nn.BatchNorm3d: (nn.Conv3d, nn.ConvTranspose3d),
}
_CONVS = sum(FOLLOWS.values(), ())

Names = dict[nn.Module, str]
Pairs = dict[nn.Module, nn.Module | str]  # norm -> its convolution, or why there is none


def find_pairs(model: nn.Module, names: Names, norms: list[_BatchNorm], hooked: Pairs, inputs: Any) -> Pairs:
    """The convolution of each norm, or why there is none; a CBN that the model feeds itself may be missing."""
    by_order = _pairs_by_order(names, norms)
    if inputs is None:
        hint = '; example_inputs would tell'
        pairs = {norm: f'{pair}{hint}' if isinstance(pair, str) else pair for norm, pair in by_order.items()}
        # A CBN has its hook, or is in a model that calls conv_norm.
        return {norm: pair for norm, pair in pairs.items() if not isinstance(norm, CBN)} | hooked
    pairs = _pairs_by_run(model, names, norms, inputs)
    for norm in norms:
        if norm not in pairs:
            pair = by_order[norm]
            pairs[norm] = 'not called with example_inputs' if isinstance(pair, str) else pair
    return pairs


def _pairs_by_order(names: Names, norms: list[_BatchNorm]) -> Pairs:
    places: dict[nn.Module, list] = {norm: [] for norm in norms}
    for parent in names:
        children = [child for child in parent._modules.values() if child is not None]
        before = list(zip(children, [None, *children]))
        fitting = {conv for norm, conv in before if norm in places and _fits(conv, norm)}
        sequential = type(parent).forward is nn.Sequential.forward and 'forward' not in vars(parent)
        for norm, conv in before:
            if norm in places:
                rivals = [] if sequential else [c for c in children if c not in fitting and _fits(c, norm)]
                places[norm].append(_ordered(names, parent, norm, conv, rivals))
    return {norm: _only(names, found) for norm, found in places.items()}


def _ordered(
    names: Names, parent: nn.Module, norm: nn.Module, conv: nn.Module | None, rivals: list[nn.Module]
) -> nn.Module | str:
    if conv is None:
        return f'nothing comes before it in {type(parent).__name__}'
    if not _fits(conv, norm):
        return f'{_label(names, conv)} comes before it, no convolution that fits'
    if rivals:
        return f'{_label(names, conv)} or {_label(names, rivals[0])} may feed it'
    return _plain(names, conv) or conv


def _pairs_by_run(model: nn.Module, names: Names, norms: list[_BatchNorm], inputs: Any) -> Pairs:
    made: dict[int, tuple] = {}  # id -> tensor, maker, version; the tensor is kept, so that its id stays its own
    latest: dict[nn.Module, Tensor] = {}
    fed: dict[nn.Module, list] = {norm: [] for norm in norms}

    def produce(module, args, output):
        if isinstance(output, Tensor):
            output = rows(module, output)
            made[id(output)] = output, module, version(output)
            latest[module] = output

    def receive(norm, args, kwargs):
        y = first(args, kwargs)
        alias = (each for each in reversed(made.values()) if same_values(y, each[0], each[2]))
        tensor, source, before = made.get(id(y)) or next(alias, (None, None, 0))
        fed[norm].append(_observed(names, source, version(y) != before, latest.get(source) is tensor))

    handles = []
    try:
        for module in names:
            # nn.Identity makes nothing; anything else that returns its input does something to it in training.
            if isinstance(module, _CONVS + (_BatchNorm,)) or not module._modules and type(module) is not nn.Identity:
                handles.append(module.register_forward_hook(produce))
            if module in fed:
                handles.append(module.register_forward_pre_hook(receive, with_kwargs=True))
        with evaluating(model):
            if isinstance(inputs, dict):
                model(**inputs)
            else:
                model(*inputs if isinstance(inputs, tuple) else (inputs,))
    finally:
        for handle in handles:
            handle.remove()
    return {norm: _only(names, found) for norm, found in fed.items() if found}


def _observed(names: Names, source: nn.Module | None, changed: bool, latest: bool) -> nn.Module | str:
    if source is None:
        return 'its input is made by an operation outside of any layer'
    if not isinstance(source, _CONVS):
        return f'{_label(names, source)} feeds it, no convolution'
    if changed:
        return f'its input is changed in place after {_label(names, source)}'
    if not latest:
        return f'{_label(names, source)} runs again before it is called'
    return _plain(names, source) or source


def _only(names: Names, found: list) -> nn.Module | str:
    """The convolution, if it is the same everywhere."""
    for pair in found:
        if isinstance(pair, str):
            return pair
    convs = list(dict.fromkeys(found))
    return convs[0] if len(convs) == 1 else 'several feed it: ' + ', '.join(_label(names, conv) for conv in convs)


def _fits(conv: nn.Module | None, norm: nn.Module) -> bool:
    """Whether the layers go together by kind and channels."""
    kinds = next((convs for kind, convs in FOLLOWS.items() if isinstance(norm, kind)), _CONVS)
    if not isinstance(conv, kinds):
        return False
    return (conv.out_features if isinstance(conv, nn.Linear) else conv.out_channels) == norm.num_features


def _plain(names: Names, conv: nn.Module) -> str | None:
    """None if the layer computes what its torch base does with ``conv.weight``, else what is wrong."""
    base = next(kind for kind in _CONVS if isinstance(conv, kind))
    for name in ('forward', '_conv_forward'):
        own = getattr(type(conv), name, None) is not getattr(base, name, None) and not pads_same(conv)
        if name in vars(conv) or own:
            return f'{_label(names, conv)}, which feeds it, has a forward of its own'
    return None


def rows(module: nn.Module, t: Tensor) -> Tensor:
    """What is left of a linear layer's input or output when the model flattens it, for the norm, to (N, C)."""
    return t.flatten(0, -2) if isinstance(module, nn.Linear) and t.dim() > 2 else t


def version(y: Tensor) -> int:
    """Grows whenever ``y`` is changed in place."""
    return 0 if y.is_inference() else y._version


def same_values(y: Tensor, earlier: Tensor, earlier_version: int) -> bool:
    """Whether ``y`` is ``earlier`` or an alias (a module's backward hooks make one), not changed in place since."""
    alias = y is earlier or (
        y.dtype == earlier.dtype
        and y.shape == earlier.shape
        and y.stride() == earlier.stride()
        and y.data_ptr() == earlier.data_ptr() != 0
    )
    return alias and version(y) == earlier_version


def _label(names: Names, module: nn.Module) -> str:
    return f'{type(module).__name__} {names.get(module, "")!r}'


def first(args: tuple, kwargs: dict) -> Any:
    """The first argument of a call."""
    return args[0] if args else next(iter(kwargs.values()))
