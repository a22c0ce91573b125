"""Norm layers: BN, SyncBN, GN and CBN behind one ``build_norm_layer``."""
from .build import NORM_TYPES, build_norm_layer, conv_norm
from .cbn import CBN, CBNPlus, SyncCBN
from .sync_bn import SyncBN

__all__ = ['CBN', 'CBNPlus', 'NORM_TYPES', 'SyncBN', 'SyncCBN', 'build_norm_layer', 'conv_norm']
