"""Norm layers: BN, SyncBN, GN, BRN and CBN behind one ``build_norm_layer``."""

from .brn import BRN
from .build import NORM_TYPES, build_norm_layer, conv_norm
from .cbn import CBN, CBNPlus, SyncCBN
from .cbn_gn import CBNGN
from .convert import ConvertReport, convert_norm
from .sync_bn import SyncBN

__all__ = [
    'BRN',
    'CBN',
    'CBNGN',
    'CBNPlus',
    'ConvertReport',
    'NORM_TYPES',
    'SyncBN',
    'SyncCBN',
    'build_norm_layer',
    'conv_norm',
    'convert_norm',
]
