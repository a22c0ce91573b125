"""Norm layers by config, and the one place where a convolution meets its norm."""

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from mmdet.words import nearest

from ..conv import conv2d
from .brn import BRN
from .cbn import CBN, CBNPlus, SyncCBN
from .cbn_gn import CBNGN
from .frozen import frozen_conv_norm
from .sync_bn import SyncBN

NORMS: dict[str, type] = {
    'BN': nn.BatchNorm2d,
    'BN1d': nn.BatchNorm1d,
    'BN2d': nn.BatchNorm2d,
    'BN3d': nn.BatchNorm3d,
    'SyncBN': SyncBN,
    'GN': nn.GroupNorm,
    'LN': nn.LayerNorm,
    'IN': nn.InstanceNorm2d,
    'IN1d': nn.InstanceNorm1d,
    'IN2d': nn.InstanceNorm2d,
    'IN3d': nn.InstanceNorm3d,
    'CBN': CBN,
    'CBN+': CBNPlus,
    'SyncCBN': SyncCBN,
    'BRN': BRN,
    'CBN+GN': CBNGN,
}
NORM_TYPES = tuple(NORMS)


def build_norm_layer(
    cfg: dict, num_features: int, postfix: int | str = '', find: Callable[[str], type | None] = NORMS.get
) -> tuple[str, nn.Module]:
    """A norm layer by config, and its name in a model.

    Args:
        cfg: ``type`` (BN, SyncBN, GN, CBN, ..., or a class), the layer's arguments, and ``requires_grad`` (default
            True).
        num_features: number of channels.
        postfix: appended to the name.
        find: the class of a type.

    Returns:
        Name of the layer (abbreviation and postfix, ``bn1`` say) and the layer.

    Raises:
        KeyError: unknown norm type. TypeError: an argument the layer does not have.
        ValueError: a value out of range.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise TypeError(f"norm_cfg must be a dict with the key 'type', for instance dict(type='BN'); got {cfg!r}")
    layer = cfg['type']
    if not inspect.isclass(layer):
        layer = find(layer) if isinstance(layer, str) else None
        if layer is None:
            hint = nearest(str(cfg['type']), NORM_TYPES, 0.5)
            raise KeyError(f'norm_cfg: unknown norm type {cfg["type"]!r}; known are {", ".join(NORM_TYPES)}{hint}')
    _check_arguments(layer, cfg)
    arguments = {'eps': 1e-5, **{key: value for key, value in cfg.items() if key not in ('type', 'requires_grad')}}
    if issubclass(layer, nn.GroupNorm):
        norm = layer(num_channels=num_features, **arguments)
    else:
        norm = layer(num_features, **arguments)
    for parameter in norm.parameters():
        parameter.requires_grad_(cfg.get('requires_grad', True))
    return f'{_abbreviation(layer)}{postfix}', norm


def _abbreviation(layer: type) -> str:
    words = (
        short
        for word, short in (('batch', 'bn'), ('group', 'gn'), ('layer', 'ln'), ('instance', 'in'))
        if word in layer.__name__.lower()
    )
    return getattr(layer, '_abbr_', None) or next(words, 'norm_layer')


def _parameters(layer: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(layer.__init__).parameters)  # type: ignore[misc]  # of this very class


def _check_arguments(layer: type, cfg: dict) -> None:
    parameters = _parameters(layer)
    further: type | None = getattr(layer, 'kwargs_of', None)
    if further is not None:
        del parameters['kwargs']
        parameters.update(_parameters(further))
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name not in ('self', 'num_features', 'num_channels')]
    for key in cfg:
        if key not in known and key not in ('type', 'requires_grad'):
            raise TypeError(
                f'norm_cfg: {layer.__name__} has no argument {key!r} (value {cfg[key]!r}); '
                f'it takes {", ".join(known)}{nearest(key, known)}'
            )
    for key, value in cfg.items():
        if isinstance(value, int) and abs(value) >= 2**31:
            raise ValueError(f'norm_cfg: {layer.__name__}: {key}={value} is beyond any use')
    for key, good, words in (
        ('eps', lambda value: 0 < value < float('inf'), 'a number above 0'),
        ('momentum', lambda value: 0 <= value <= 1, 'a number from 0 to 1'),
    ):
        value = cfg.get(key, 0.1)
        if (
            isinstance(value, bool)
            or not (isinstance(value, (int, float)) and good(value))
            and (value is not None or key == 'eps')
        ):
            raise ValueError(f'norm_cfg: {layer.__name__}: {key} must be {words}, got {value!r}')
    groups = cfg.get('num_groups', 1)
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise ValueError(f'norm_cfg: {layer.__name__}: num_groups must be a number of 1 or more, got {groups!r}')
    if issubclass(layer, nn.GroupNorm) and 'num_groups' not in cfg:
        name = next((name for name, known in NORMS.items() if known is layer), layer.__name__)
        raise TypeError(f"norm_cfg: {name} needs 'num_groups', for instance dict(type={name!r}, num_groups=32)")


#: of the norms that are nn.BatchNorm2d where they use running statistics
_AS_BN = (nn.BatchNorm2d.forward, SyncBN.forward, CBN.forward)


def conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))``, giving CBN the convolution and its input. The only place that knows of CBN."""
    y = frozen_conv_norm(conv, norm, x, _AS_BN)
    if y is not None:
        return y
    y = conv2d(conv, x)
    return norm(y, x, conv) if isinstance(norm, (CBN, CBNGN)) else norm(y)
