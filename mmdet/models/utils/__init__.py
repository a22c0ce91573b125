"""What heads have in common."""

from .misc import (
    empty_instances,
    images_to_levels,
    multi_apply,
    rename_loss_dict,
    reweight_loss_dict,
    select_single_mlvl,
    unpack_gt_instances,
)

__all__ = [
    'empty_instances',
    'images_to_levels',
    'multi_apply',
    'rename_loss_dict',
    'reweight_loss_dict',
    'select_single_mlvl',
    'unpack_gt_instances',
]
