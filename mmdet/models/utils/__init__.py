"""What heads have in common."""

from .misc import images_to_levels, multi_apply, select_single_mlvl, unpack_gt_instances

__all__ = ['images_to_levels', 'multi_apply', 'select_single_mlvl', 'unpack_gt_instances']
