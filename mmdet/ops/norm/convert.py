"""Swap the BN layers of any model for CBN (or another norm), and back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from .brn import BRN
from .build import build_norm_layer
from .cbn import CBN
from .cbn_gn import CBNGN
from .kernels import outside_graphs
from .pairing import FOLLOWS, Names, Pairs, find_pairs, first, rows, same_values, version
from .sync_bn import SyncBN

_BN = tuple(FOLLOWS)
_NORM_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward, SyncBN.forward, CBN.forward, BRN.forward)
_MODULE_STATE = tuple(vars(nn.Module()))  # parameters, buffers, children, hooks, the training flag


@dataclass
class ConvertReport:
    """Says what :func:`convert_norm` did, layer by layer.

    Attributes:
        target: the type of the new layers.
        converted: name of each new layer -> name of the convolution that feeds it; None where no hook feeds it
            (the new layer is no CBN, or the model hands the convolution over, see :func:`.conv_norm`).
        left: name of each norm layer that was left as it was -> why.
    """

    target: str
    converted: dict[str, str | None] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f'{self.target}: {len(self.converted)} converted, {len(self.left)} left as they were'
        return '\n'.join([head, *(f'  {name or "(the model itself)"}: {why}' for name, why in self.left.items())])


class _Hook:
    """A forward hook that survives copying and pickling: it keeps its handle, by which torch keeps its number free."""

    __call__: Callable[..., Any]

    def attach(self, module: nn.Module, **kwargs) -> None:
        self.handle = module.register_forward_hook(self, **kwargs)

    @classmethod
    def on(cls, module: nn.Module) -> list:
        """The module's hooks of this class."""
        return [hook for hook in module._forward_hooks.values() if isinstance(hook, cls)]


class Feed(_Hook):
    """Hook of a convolution, and of the CBN after it, which gets the convolution and its input as further arguments."""

    def __init__(self, conv: nn.Module, norm: CBN | CBNGN) -> None:
        self.conv, self.norm = conv, norm
        self.cbn = norm.cbn if isinstance(norm, CBNGN) else norm
        self.made: tuple | None = None  # input, output and its version, of the latest call
        self.attach(conv, with_kwargs=True)
        self.taken = norm.register_forward_pre_hook(self.hand_over)

    def remove(self) -> None:
        self.handle.remove()
        self.taken.remove()

    @outside_graphs
    def __call__(self, conv: nn.Module, args: tuple, kwargs: dict, y: Tensor) -> None:
        training = self.cbn.training and self.cbn.buffer_num
        y = rows(conv, y)
        self.made = (rows(conv, first(args, kwargs)), y, version(y)) if training else None

    @outside_graphs
    def hand_over(self, norm: nn.Module, args: tuple) -> tuple | None:
        made, self.made = self.made, None
        if made is None or len(args) > 1:
            return None
        x, *output = made
        if not same_values(args[0], *output):
            raise RuntimeError(
                f'CBN{self.cbn._where()}: the {type(self.conv).__name__} it was paired with did not '
                'make its input: pair them by running the model, convert_norm(..., example_inputs=...)'
            )
        return args[0], x, self.conv

    def __getstate__(self) -> dict:
        return {**self.__dict__, 'made': None}


class _Acting(nn.Module):
    """What timm's BatchNormAct2d has. For types alone."""

    drop: nn.Module
    act: nn.Module


class ApplyAct(_Hook):
    """Hook of the layer that replaced timm's BatchNormAct2d: its ``drop`` and ``act``."""

    def __call__(self, norm: _Acting, args: tuple, z: Tensor) -> Tensor:
        return norm.act(norm.drop(z))


def convert_norm(model: nn.Module, cfg: dict, example_inputs: Any = None) -> ConvertReport:
    """Replace the batch norms of ``model`` (BN, SyncBN, BRN, CBN), in place.

    A CBN needs the convolution or linear layer that feeds it. Without ``example_inputs`` it is found from the order of
    the modules where that leaves no doubt: directly before the norm in an ``nn.Sequential``, or among a module's
    children, if none of its other convolutions could be meant. With ``example_inputs`` the model runs once, in
    evaluation mode and without gradient, and what is seen decides; the order only for layers that were not called. A
    norm without one stays as it is; the report says why. A pair that turns out wrong in training raises RuntimeError.

    The new layers hold the same Parameter and buffer objects under the same names, and the old ones' eps, momentum
    (unless in ``cfg``) and mode. ``dict(type='BN')`` gives back the classes there were. From GN, which has no running
    statistics, and from CBN+GN there is no way back. From CBN to CBN the iteration count stays, the window starts
    empty. Convert before ``torch.compile``.

    Args:
        model: any module.
        cfg: as in :func:`.build_norm_layer`; types BN, SyncBN, GN, BRN, CBN, CBN+, SyncCBN, CBN+GN.
        example_inputs: ``model(x)`` for anything but a tuple, ``model(*x)``, or a dict, ``model(**x)``.

    Returns:
        What was converted, and what was not.

    Raises:
        KeyError, TypeError: as :func:`.build_norm_layer`.
        ValueError: a value out of range, ``affine`` or ``track_running_stats`` in ``cfg``, or a norm of another kind;
            or without ``example_inputs`` not one CBN has a convolution for certain.
    """
    target = build_norm_layer(cfg, cfg.get('num_groups', 1) if isinstance(cfg, dict) else 1)[1]
    _check_target(target, cfg)
    report = ConvertReport(getattr(cfg['type'], '__name__', cfg['type']))
    names = {each: name for name, each in model.named_modules() if not isinstance(each, torch.jit.ScriptModule)}
    norms = _norms(model, names, target, report)
    feeds = {feed.norm: (module, feed) for module in names for feed in Feed.on(module)}
    pairs: Pairs = {}
    follows = isinstance(target, (CBN, CBNGN))
    if follows:
        pairs = find_pairs(model, names, norms, {norm: conv for norm, (conv, _) in feeds.items()}, example_inputs)
    layers = {}
    for norm in norms:
        pair = pairs.get(norm)
        if isinstance(pair, str):
            report.left[names[norm]] = pair
        elif isinstance(target, nn.GroupNorm) and norm.num_features % target.num_groups:
            report.left[names[norm]] = f'{norm.num_features} channels are not divisible by {target.num_groups} groups'
        else:
            layers[norm] = _new_layer(norm, cfg, target)
    if norms and not layers and example_inputs is None and follows:
        raise ValueError(
            f'convert_norm: the order of the modules does not tell what feeds any norm; give '
            f'example_inputs, with which the model is run once. {report}'
        )
    # Whatever can fail is behind us: the model changes as a whole or not at all.
    for norm, layer in layers.items():
        if norm in feeds:
            feeds[norm][1].remove()
        _take_over(norm, layer, cfg, names[norm])
        conv = pairs.get(norm)
        if isinstance(conv, nn.Module) and isinstance(layer, (CBN, CBNGN)):
            Feed(conv, layer)
        report.converted[names[norm]] = names[conv] if isinstance(conv, nn.Module) else None
    for module in names:
        for name, child in list(module._modules.items()):
            if child in layers:
                module.add_module(name, layers[child])
    return report


def _check_target(target: nn.Module, cfg: dict) -> None:
    if not isinstance(target, (_BatchNorm, nn.GroupNorm)):
        raise ValueError(
            f'convert_norm: BN can become BN, SyncBN, GN, BRN, CBN, CBN+, SyncCBN or CBN+GN, got type={cfg["type"]!r}'
        )
    for key in ('affine', 'track_running_stats'):
        if key in cfg:
            raise ValueError(f'convert_norm: each layer keeps its parameters and buffers; leave {key!r} out of the cfg')


def _norms(model: nn.Module, names: Names, target: nn.Module, report: ConvertReport) -> list[_BatchNorm]:
    """The layers to replace; the report gets those that cannot be."""
    norms = []
    parts = {module.cbn for module in names if isinstance(module, CBNGN)}
    for module, name in names.items():
        batch_norm = isinstance(module, _BatchNorm) and module not in parts
        frozen = 'FrozenBatchNorm' in type(module).__name__
        if not (batch_norm or frozen) or isinstance(target, _BN) and (frozen or isinstance(module, _BN)):
            continue
        kind = type(module).__name__
        if frozen:
            report.left[name] = f'{kind} has constant statistics'
        elif module is model:
            report.left[name] = f'a lone {kind} cannot be replaced in place; build the other layer instead'
        elif isinstance(module, LazyModuleMixin):
            report.left[name] = f'{kind} has no size yet; run the model once'
        elif not _has_act(module) and ('forward' in vars(module) or type(module).forward not in _NORM_FORWARDS):
            report.left[name] = f'{kind} has a forward of its own'
        elif 'weight' not in module._parameters:
            report.left[name] = f'the weight of {kind} is parametrized'
        elif isinstance(module, _BatchNorm):
            norms.append(module)
    return norms


# -- the new layer --------------------------------------------------------------------------------------------------


def _new_layer(norm: _BatchNorm, cfg: dict, target: nn.Module) -> nn.Module:
    """A layer of the wanted type, without the old one's state."""
    if not isinstance(target, _BN) or '_origin' not in vars(norm):
        return build_norm_layer(cfg, norm.num_features)[1]
    kind, attributes = vars(norm)['_origin']
    layer = kind.__new__(kind)  # not its __init__, which may take anything; what that left behind is known
    nn.Module.__init__(layer)
    vars(layer).update(attributes)
    return layer


def _take_over(norm: nn.Module, layer: nn.Module, cfg: dict, name: str) -> None:
    """Move parameters, buffers, children, hooks and settings from ``norm`` to ``layer``."""
    acts, cbn = _has_act(norm), layer.cbn if isinstance(layer, CBNGN) else layer
    vars(layer).update((key, vars(norm)[key]) for key in _MODULE_STATE if key in vars(norm))
    if cbn is not layer:
        cbn._buffers, cbn.training = layer._buffers, layer.training
        layer._modules = {**layer._modules, 'cbn': cbn}
    if isinstance(layer, nn.GroupNorm):
        layer._buffers = {}
    for part, key in ((layer, 'affine'), (cbn, 'track_running_stats'), (cbn, 'momentum'), (layer, 'eps'), (cbn, 'eps')):
        if hasattr(part, key):
            setattr(part, key, cfg.get(key, getattr(norm, key)))
    if 'requires_grad' in cfg:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(cfg['requires_grad'])
    for hook in ApplyAct.on(layer):
        hook.handle.remove()
    if acts and not _timm_act(layer):
        ApplyAct().attach(layer, prepend=True)
    if not isinstance(layer, (nn.GroupNorm, *_BN)):
        if isinstance(norm, _BN):
            own = {key: value for key, value in vars(norm).items() if key not in _MODULE_STATE}
            vars(layer)['_origin'] = type(norm), own
        elif '_origin' in vars(norm):
            vars(layer)['_origin'] = vars(norm)['_origin']
    if isinstance(cbn, CBN):
        cbn.layer_name = name
        if isinstance(norm, CBN):
            cbn.step, cbn.epoch_length = norm.step, norm.epoch_length


def _timm_act(norm: nn.Module) -> bool:
    kind = type(norm)
    return kind.__module__.split('.')[0] == 'timm' and kind.__name__ in ('BatchNormAct2d', 'SyncBatchNormAct')


def _has_act(norm: nn.Module) -> bool:
    return _timm_act(norm) or bool(ApplyAct.on(norm))
