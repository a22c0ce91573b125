"""Norm layers by config, and the one place where a convolution meets its norm."""
import difflib
import inspect
from typing import Union

import mmcv.cnn
from mmengine.registry import MODELS
from torch import Tensor, nn

from .cbn import CBN, CBNPlus, SyncCBN
from .sync_bn import SyncBN

# mmcv keeps the norms in the root registry, where its build_norm_layer looks them up.
for _name, _layer in (('CBN', CBN), ('CBN+', CBNPlus), ('SyncCBN', SyncCBN), ('SyncBN', SyncBN)):
    MODELS.register_module(_name, module=_layer, force=True)

NORM_TYPES = ('BN', 'BN1d', 'BN2d', 'BN3d', 'SyncBN', 'GN', 'LN', 'IN', 'IN1d', 'IN2d', 'IN3d', 'CBN',
              'CBN+', 'SyncCBN')


def build_norm_layer(cfg: dict, num_features: int, postfix: Union[int, str] = '') -> tuple[str, nn.Module]:
    """mmcv's ``build_norm_layer`` with errors that say what would be right.

    Args:
        cfg: ``type`` (BN, SyncBN, GN, CBN, ...), the layer's arguments, and ``requires_grad`` (default True).
        num_features: number of channels.
        postfix: appended to the name.

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
        layer = MODELS.get(layer) if isinstance(layer, str) else None
        if layer is None:
            near = difflib.get_close_matches(str(cfg['type']), NORM_TYPES, 1, 0.5)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            raise KeyError(f"norm_cfg: unknown norm type {cfg['type']!r}; known are {', '.join(NORM_TYPES)}{hint}")
    _check_arguments(layer, cfg)
    return mmcv.cnn.build_norm_layer(cfg, num_features, postfix)


def _check_arguments(layer: type, cfg: dict) -> None:
    parameters = inspect.signature(layer.__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name not in ('self', 'num_features', 'num_channels')]
    for key in cfg:
        if key not in known and key not in ('type', 'requires_grad'):
            near = difflib.get_close_matches(key, known, 1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            raise TypeError(f"norm_cfg: {layer.__name__} has no argument {key!r} (value {cfg[key]!r}); "
                            f"it takes {', '.join(known)}{hint}")
    if layer is nn.GroupNorm and 'num_groups' not in cfg:
        raise TypeError("norm_cfg: GN needs 'num_groups', for instance dict(type='GN', num_groups=32)")


def conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))``, giving CBN the convolution and its input. The only place that knows of CBN."""
    y = conv(x)
    return norm(y, x, conv) if isinstance(norm, CBN) else norm(y)
