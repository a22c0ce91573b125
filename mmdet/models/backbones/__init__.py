"""Backbones."""

from .resnet import ResNet, ResNeXt
from .timm_backbone import TIMMBackbone

__all__ = ['ResNeXt', 'ResNet', 'TIMMBackbone']
