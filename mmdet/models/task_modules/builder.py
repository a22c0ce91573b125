"""mmdetection's older names for building parts of TASK_UTILS."""

from mmdet.registry import TASK_UTILS

BBOX_ASSIGNERS = BBOX_CODERS = BBOX_SAMPLERS = IOU_CALCULATORS = PRIOR_GENERATORS = ANCHOR_GENERATORS = TASK_UTILS
build_assigner = build_bbox_coder = build_iou_calculator = build_sampler = TASK_UTILS.build
build_anchor_generator = build_prior_generator = TASK_UTILS.build
