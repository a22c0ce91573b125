"""Cases of a detector's parts whose answers are recorded from mmdetection 3.x; only names that both have are used.

Inputs come from numpy's generator, whose numbers do not change with versions, and rounded to make exact ties.
"""

import json

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import mmdet.models  # noqa: F401  registers the parts
from mmdet.models.backbones.resnet import BasicBlock
from mmdet.models.layers import ResLayer, multiclass_nms
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps

STRIDES = [4, 8]
HEIGHT, WIDTH = 64, 80


def tensor(array) -> torch.Tensor:
    return torch.tensor(np.asarray(array, dtype=np.float32))


def make_boxes(rng, number: int, size: float = 80.0, step: float = 0.0) -> np.ndarray:
    corner = rng.rand(number, 2) * size * 0.8
    boxes = np.concatenate([corner, corner + 3 + rng.rand(number, 2) * size * 0.5], 1)
    return np.round(boxes / step) * step if step else boxes


def value_and_gradient(loss: dict, pred: np.ndarray, *args, **kwargs) -> dict:
    pred = tensor(pred).requires_grad_()
    value = MODELS.build(loss)(pred, *args, **kwargs)
    (gradient,) = torch.autograd.grad(value.sum(), pred)
    return dict(value=value.detach().numpy(), gradient=gradient.numpy())


# -- losses -----------------------------------------------------------------------------------------------------------

BOX_LOSSES = {
    'iou_linear': dict(type='IoULoss', mode='linear'),
    'iou_old_linear': dict(type='IoULoss', linear=True),
    'iou_square': dict(type='IoULoss', mode='square', eps=1e-2),
    'iou_log': dict(type='IoULoss', loss_weight=10.0),
    'giou': dict(type='GIoULoss', loss_weight=10.0),
    'diou': dict(type='DIoULoss'),
    'ciou': dict(type='CIoULoss', loss_weight=12.0),
    'bounded': dict(type='BoundedIoULoss', loss_weight=10.0),
    'bounded_beta': dict(type='BoundedIoULoss', beta=1.0, eps=0.1),
    'l1': dict(type='L1Loss'),
    'smooth_l1': dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=2.0),
}


def box_losses() -> dict:
    rng = np.random.RandomState(0)
    target = make_boxes(rng, 14)
    pred = target + rng.randn(14, 4) * 3
    pred[8:11] = make_boxes(rng, 3)
    pred[11, 2:] = pred[11, :2]  # no area
    pred[12] += 300  # far away
    rows = tensor(np.repeat(rng.rand(14, 1) > 0.3, 4, 1))
    out = {}
    for name, loss in BOX_LOSSES.items():
        for case, (weight, avg_factor, reduction) in dict(
            mean=(None, None, 'mean'),
            average=(rows, 7.0, None),
            total=(rows, None, 'sum'),
            each=(rows, None, 'none'),
            nought=(rows * 0, 7.0, None),
        ).items():
            out[f'{name}.{case}'] = value_and_gradient(
                loss, pred, tensor(target), weight, avg_factor=avg_factor, reduction_override=reduction
            )
    return out


def cross_entropy() -> dict:
    rng = np.random.RandomState(1)
    pred, labels, weight = rng.randn(10, 4) * 3, rng.randint(0, 4, 10), tensor(rng.rand(10))
    hot = (rng.rand(10, 4) > 0.6).astype(int)
    order = np.arange(10)
    ignored = {'ignored': np.where(order % 4, labels, 255), 'negative': np.where(order % 3, labels, -100)}
    hot_ignored = hot.copy()
    hot_ignored[::3, 1] = 255
    out = {}
    for average in (False, True):
        for class_weight in (None, [0.5, 1.0, 2.0, 0.1]):
            options = dict(type='CrossEntropyLoss', avg_non_ignore=average, class_weight=class_weight)
            for name, target in dict(ignored, plain=labels).items():
                loss = dict(options, ignore_index=255) if name == 'ignored' else options
                for sigmoid in (False, True):
                    for case, (w, avg_factor, reduction) in dict(
                        mean=(None, None, 'mean'),
                        average=(weight, 6.0, 'mean'),
                        total=(weight, None, 'sum'),
                        each=(weight, 6.0, 'none'),
                    ).items():
                        out[f'{average}.{class_weight is not None}.{name}.{sigmoid}.{case}'] = value_and_gradient(
                            dict(loss, use_sigmoid=sigmoid),
                            pred,
                            torch.tensor(np.where(target == -100, -1, target) if sigmoid else target),
                            w,
                            avg_factor=avg_factor,
                            reduction_override=reduction,
                        )
            for name, target in dict(hot=hot, hot_ignored=hot_ignored).items():
                out[f'{average}.{class_weight is not None}.{name}'] = value_and_gradient(
                    dict(options, use_sigmoid=True, ignore_index=255), pred, torch.tensor(target)
                )
    return out


# -- anchors, coder, assigner, samplers -------------------------------------------------------------------------------


def overlaps() -> dict:
    rng = np.random.RandomState(2)
    one, two = tensor(make_boxes(rng, 7)), tensor(make_boxes(rng, 5))
    one[0] = 0
    return {
        mode: dict(
            each=bbox_overlaps(one, two, mode).numpy(),
            aligned=bbox_overlaps(one[:5], two, mode, is_aligned=True).numpy(),
        )
        for mode in ('iou', 'iof', 'giou')
    }


def anchors() -> dict:
    out = {}
    for name, options in dict(
        plain=dict(strides=[4, 8], ratios=[0.5, 1.0, 2.0], scales=[8]),
        octaves=dict(strides=[8, 16], ratios=[0.5, 2.0], octave_base_scale=4, scales_per_octave=3),
        pairs=dict(strides=[(8, 16), (16, 8)], ratios=[0.3, 1.7], scales=[2.5, 3], center_offset=0.5),
        minor=dict(strides=[4, 8], ratios=[0.5, 1.0], scales=[8, 3], base_sizes=[5, 9], scale_major=False),
        centers=dict(strides=[4, 8], ratios=[0.5], scales=[8], centers=[(1.0, 2.0), (3.0, 4.0)]),
    ).items():
        generator = TASK_UTILS.build(dict(options, type='AnchorGenerator'))
        sizes = [(3, 4), (2, 2)]
        out[name] = {f'level{i}': level.numpy() for i, level in enumerate(generator.grid_priors(sizes, device='cpu'))}
        flags = generator.valid_flags(sizes, (9, 17), device='cpu')
        out[name].update({f'flags{i}': level.numpy() for i, level in enumerate(flags)})
    return out


def coder() -> dict:
    out = {}
    for i, options in enumerate(
        [
            dict(),
            dict(target_means=[0.1, -0.2, 0.3, 0.05], target_stds=[0.1, 0.1, 0.2, 0.2]),
            dict(clip_border=False, add_ctr_clamp=True, ctr_clamp=10),
            dict(add_ctr_clamp=True, target_stds=[0.5] * 4),
        ]
    ):
        rng = np.random.RandomState(3)
        part = TASK_UTILS.build(dict(options, type='DeltaXYWHBBoxCoder'))
        priors, boxes = tensor(make_boxes(rng, 12)), tensor(make_boxes(rng, 12))
        deltas = tensor(rng.randn(12, 8) * 4)
        out[str(i)] = dict(
            encoded=part.encode(priors, boxes).numpy(),
            decoded=part.decode(priors, deltas, max_shape=(50, 60)).numpy(),
            one=part.decode(priors, deltas[:, :4], wh_ratio_clip=0.1).numpy(),
        )
    return out


ASSIGNERS = [
    dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3),
    dict(pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False),
    dict(pos_iou_thr=0.5, neg_iou_thr=(0.1, 0.4), min_pos_iou=0.2, gt_max_assign_all=False),
    dict(
        pos_iou_thr=0.6,
        neg_iou_thr=0.3,
        min_pos_iou=0.0,
        ignore_iof_thr=0.5,
        gpu_assign_thr=3,
        iou_calculator=dict(type='BboxOverlaps2D'),
    ),
    dict(pos_iou_thr=0.6, neg_iou_thr=0.3, min_pos_iou=0.1, ignore_iof_thr=0.5, ignore_wrt_candidates=False),
]
SAMPLERS = [
    dict(type='RandomSampler', num=64, pos_fraction=0.25),
    dict(type='RandomSampler', num=64, pos_fraction=0.5, neg_pos_ub=3, add_gt_as_proposals=False),
    dict(type='RandomSampler', num=7, pos_fraction=0.9),
    dict(type='PseudoSampler'),
]


def assigned_and_sampled() -> dict:
    out = {}
    for seed, number in enumerate([5, 0, 14, 3]):
        rng = np.random.RandomState(seed)
        step = [0.0, 8.0][seed % 2 if number else 0]
        priors, boxes = make_boxes(rng, 120, step=step), make_boxes(rng, number, step=step)
        if number > 4:
            boxes[1] = boxes[2]  # a tie for every prior
            priors[:30] = boxes[rng.randint(0, number, 30)] + rng.randn(30, 4)
        priors, ignored = InstanceData(priors=tensor(priors)), InstanceData(bboxes=tensor(make_boxes(rng, 2)))
        objects = InstanceData(bboxes=tensor(boxes), labels=torch.tensor(rng.randint(0, 5, number), dtype=torch.long))
        for i, options in enumerate(ASSIGNERS):
            part = TASK_UTILS.build(dict(options, type='MaxIoUAssigner'))
            result = part.assign(priors, objects, ignored)
            out[f'assigner{i}.{seed}'] = dict(
                gt_inds=result.gt_inds.numpy().astype(np.int8), labels=result.labels.numpy().astype(np.int8)
            )
            for j, sampler in enumerate(SAMPLERS):
                torch.manual_seed(seed)
                sampled = TASK_UTILS.build(sampler).sample(part.assign(priors, objects, ignored), priors, objects)
                out[f'sampler{j}.{i}.{seed}'] = dict(
                    positive=sampled.pos_inds.numpy().astype(np.int16),
                    negative=sampled.neg_inds.numpy().astype(np.int16),
                    assigned=sampled.pos_assigned_gt_inds.numpy().astype(np.int8),
                    own=sampled.pos_is_gt.numpy().astype(np.int8),
                    avg_factor=np.int16(sampled.avg_factor),
                )
    return out


def suppressed() -> dict:
    out = {}
    cases = {
        'few': (60, 3, 0.2, {}),
        'ties': (60, 3, 0.2, dict(step=8.0)),
        'agnostic': (60, 3, 0.2, dict(one=True)),
        'all': (400, 3, 0.2, dict(nms=dict(class_agnostic=True))),
        'capped': (60, 3, 0.0, dict(nms=dict(max_num=9))),
        'by_class': (200, 3, 0.0, dict(nms=dict(split_thr=100), step=8.0)),
        'none': (60, 3, 2.0, {}),
        'many': (1300, 8, 0.0, dict(step=2.0)),
        'many_agnostic': (1300, 8, -1.0, dict(step=2.0, nms=dict(class_agnostic=True))),
        'rounding': (20, 30, 0.0, dict(halves=True)),
        'empty': (0, 3, 0.2, dict(one=True)),
    }
    for name, (number, classes, threshold, options) in cases.items():
        rng = np.random.RandomState(4)
        boxes = make_boxes(rng, number * classes, size=300.0, step=options.get('step', 0.0)).reshape(
            number, 4 * classes
        )
        scores = tensor(rng.randn(number, classes + 1) * 2).softmax(1)
        if 'halves' in options:  # an IoU of 0.5, about
            boxes[1::2], scores[1::2] = boxes[::2], scores[::2] * 0.99
            boxes[1::2, 3::4] -= (boxes[1::2, 3::4] - boxes[1::2, 1::4]) / 2
        if 'step' in options:
            scores = (scores * 64).round() / 64
        detections, labels = multiclass_nms(
            tensor(boxes[:, :4] if 'one' in options else boxes),
            scores,
            threshold,
            dict(options.get('nms', {}), type='nms', iou_threshold=0.5),
            60,
        )
        out[name] = dict(detections=detections.numpy(), labels=labels.numpy().astype(np.int8))
    return out


# -- heads ------------------------------------------------------------------------------------------------------------


def make_samples(rng, labels: int) -> list:
    samples = []
    for number in (4, 0, 7):
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(HEIGHT - 6, WIDTH - 3),
                pad_shape=(HEIGHT, WIDTH),
                batch_input_shape=(HEIGHT, WIDTH),
                ori_shape=(30, 40),
                scale_factor=(1.9, 1.95),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=tensor(make_boxes(rng, number, 60.0)),
            labels=torch.tensor(rng.randint(0, labels, number), dtype=torch.long),
        )
        sample.ignored_instances = InstanceData(bboxes=tensor(make_boxes(rng, 1, 60.0)), labels=torch.zeros(1).long())
        samples.append(sample)
    return samples


RPNS = {
    'plain': dict(),
    'convs': dict(num_convs=2),
    'border': dict(allowed_border=0),
    'weight': dict(pos_weight=2.0),
    'all': dict(sampler=dict(type='PseudoSampler')),
    'l1': dict(
        loss_bbox=dict(type='L1Loss'),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.1, 0.0, 0.0, 0.1], target_stds=[0.5, 0.5, 0.4, 0.4]),
    ),
    'iou': dict(reg_decoded_bbox=True, loss_bbox=dict(type='IoULoss', loss_weight=10.0)),
    'giou': dict(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss')),
    'bounded': dict(reg_decoded_bbox=True, loss_bbox=dict(type='BoundedIoULoss')),
    'small': dict(min_bbox_size=12),
    'cut': dict(nms_pre=64, max_per_img=1000),
}


def make_rpn(allowed_border=-1, pos_weight=-1, sampler=None, min_bbox_size=0, nms_pre=100, max_per_img=25, **options):
    """An RPN whose scores are channels 0 to 2 less 16 and whose deltas the next twelve: exact, so that ties stay."""
    sampler = sampler or dict(type='RandomSampler', num=64, pos_fraction=0.5, add_gt_as_proposals=False)
    head = MODELS.build(
        dict(
            type='RPNHead',
            in_channels=15,
            feat_channels=15,
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=STRIDES),
            train_cfg=ConfigDict(
                assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3),
                sampler=sampler,
                allowed_border=allowed_border,
                pos_weight=pos_weight,
            ),
            test_cfg=ConfigDict(
                nms_pre=nms_pre,
                max_per_img=max_per_img,
                min_bbox_size=min_bbox_size,
                nms=dict(type='nms', iou_threshold=0.7),
            ),
            **options,
        )
    )
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.zero_()
            if 'rpn_conv' in name and parameter.dim() == 4:
                parameter[:, :, 1, 1] = torch.eye(15)
        head.rpn_cls.weight[:, :3, 0, 0] = torch.eye(3)
        head.rpn_cls.bias.fill_(-16)
        head.rpn_reg.weight[:, 3:, 0, 0] = torch.eye(12) / 4
        head.rpn_reg.bias.fill_(-0.5)
    return head


def rpn() -> dict:
    out = {}
    for name, options in RPNS.items():
        rng = np.random.RandomState(5)
        maps = []
        for stride in STRIDES:
            x = np.round(rng.rand(3, 15, HEIGHT // stride, WIDTH // stride) * 64) / 16
            # Ties; those of the last image only of the scores, from logits that differ.
            x[:2, :3] = np.round(16 + 6 * rng.randn(*x[:2, :3].shape)).clip(min=0)
            x[2, :3] = 30 + np.abs(rng.randn(*x[2, :3].shape)) * 9
            maps.append(tensor(x))
        head, samples = make_rpn(**options), make_samples(rng, 1)
        torch.manual_seed(0)
        losses = head.loss(maps, samples)
        out[name] = {key: torch.stack(list(values)).detach().numpy() for key, values in losses.items()}
        if name in ('plain', 'small', 'cut'):
            for rescale in (False, True)[: 1 if name == 'cut' else 2]:
                for i, found in enumerate(head.predict(maps, samples, rescale=rescale)):
                    out[name].update(
                        {
                            f'bboxes{i}{rescale}': found.bboxes.numpy()[:25],
                            f'scores{i}{rescale}': found.scores.numpy()[:25],
                        }
                    )
    return out


OHEM = dict(type='OHEMSampler', num=24, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True)
ROIS = {
    'plain': dict(),
    'agnostic': dict(reg_class_agnostic=True),
    'ohem': dict(sampler=OHEM),
    'ohem_bound': dict(sampler=dict(OHEM, neg_pos_ub=1, add_gt_as_proposals=False, pos_fraction=0.1)),
    'ohem_convs': dict(sampler=OHEM, type='Shared4Conv1FCBBoxHead', conv_out_channels=4, norm_cfg=dict(type='BN')),
    'ohem_agnostic': dict(sampler=OHEM, reg_class_agnostic=True),
    'all': dict(sampler=dict(type='PseudoSampler')),
}
ROIS.update(
    {
        name: dict(reg_decoded_bbox=True, loss_bbox=dict(type=kind, loss_weight=10.0))
        for name, kind in dict(
            iou='IoULoss', giou='GIoULoss', diou='DIoULoss', ciou='CIoULoss', bounded='BoundedIoULoss'
        ).items()
    }
)
ROIS['giou_agnostic'] = dict(ROIS['giou'], reg_class_agnostic=True)


def roi_head(sampler=None, **options):
    sampler = sampler or dict(type='RandomSampler', num=24, pos_fraction=0.25)
    head = MODELS.build(
        ConfigDict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2),
                out_channels=4,
                featmap_strides=STRIDES,
            ),
            bbox_head=dict(dict(type='Shared2FCBBoxHead', in_channels=4, fc_out_channels=16, num_classes=5), **options),
            train_cfg=dict(
                assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
                sampler=sampler,
                pos_weight=-1,
            ),
            test_cfg=dict(score_thr=0.1, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20),
        )
    )
    rng = np.random.RandomState(6)
    with torch.no_grad():
        for name, parameter in sorted(head.named_parameters()):
            scale = 3 if 'fc_cls' in name else 0.5 if 'fc_reg' in name else 1.0
            parameter.copy_(tensor(rng.randn(*parameter.shape) * scale / np.prod(parameter.shape[1:]) ** 0.5))
    return head.train()


def regions() -> dict:
    out = {}
    for name, options in ROIS.items():
        rng = np.random.RandomState(7)
        maps = [tensor(rng.randn(3, 4, HEIGHT // stride, WIDTH // stride)) for stride in STRIDES]
        samples = make_samples(rng, 5)

        def proposals():
            rng = np.random.RandomState(8)
            found = []
            for sample in samples:
                boxes, objects = make_boxes(rng, 50, 60.0), sample.gt_instances.bboxes.numpy()
                if len(objects):
                    boxes[:25] = objects[rng.randint(0, len(objects), 25)] + rng.rand(25, 4) * 3
                found.append(InstanceData(bboxes=tensor(boxes), scores=torch.ones(50), labels=torch.zeros(50).long()))
            return found

        head = roi_head(**options)
        torch.manual_seed(0)
        losses = head.loss(maps, proposals(), samples)
        out[name] = {key: value.detach().numpy().reshape(-1) for key, value in losses.items()}
        if name in ('plain', 'agnostic'):
            for i, found in enumerate(head.eval().predict(maps, proposals(), samples, rescale=True)):
                out[name].update(
                    {
                        f'bboxes{i}': found.bboxes.detach().numpy(),
                        f'scores{i}': found.scores.detach().numpy(),
                        f'labels{i}': found.labels.numpy().astype(np.int8),
                    }
                )
    return out


def backbones() -> dict:
    """Maps of backbones whose shortcuts pool, and of a stage by itself."""
    images = tensor(np.random.RandomState(5).rand(1, 3, 53, 75))
    networks = {
        f'depth{depth}': MODELS.build(
            dict(type='ResNet', depth=depth, base_channels=8, stem_channels=12, avg_down=True, norm_eval=True)
        )
        for depth in (18, 50)
    }
    networks['last'] = ResLayer(BasicBlock, 3, 5, 2, stride=2, downsample_first=False)
    out = {}
    for name, network in networks.items():
        state = network.state_dict()
        rng = np.random.RandomState(6)
        for key in sorted(state):
            value = rng.rand(*state[key].shape) * 0.2 + (0.5 if key.endswith('_var') else -0.1)
            state[key] = tensor(value).to(state[key].dtype)
        network.load_state_dict(state)
        with torch.no_grad():
            network.eval()
            maps = network(images)
        out[name] = {f'map{i}': level.numpy() for i, level in enumerate(maps if isinstance(maps, tuple) else [maps])}
    return out


GROUPS = dict(
    backbones=backbones,
    box_losses=box_losses,
    cross_entropy=cross_entropy,
    overlaps=overlaps,
    anchors=anchors,
    coder=coder,
    assigned_and_sampled=assigned_and_sampled,
    suppressed=suppressed,
    rpn=rpn,
    regions=regions,
)


def answers(group: str) -> dict:
    """``{'case.key': array}`` of a group."""
    return {f'{case}.{key}': value for case, result in GROUPS[group]().items() for key, value in result.items()}


def pack(arrays: dict) -> dict:
    """Many small arrays as one of each type and an index: far smaller as a file."""
    index = [[key, str(array.dtype), array.shape] for key, array in arrays.items()]
    kinds = sorted({kind for _, kind, _ in index})
    return dict(
        {kind: np.concatenate([a.reshape(-1) for a in arrays.values() if str(a.dtype) == kind]) for kind in kinds},
        index=np.array(json.dumps(index, separators=(',', ':'))),
    )


def unpack(packed: dict) -> dict:
    """What :func:`pack` was given."""
    begin, out = {}, {}
    for key, kind, shape in json.loads(str(packed['index'])):
        first = begin.get(kind, 0)
        begin[kind] = first + int(np.prod(shape))
        out[key] = packed[kind][first : begin[kind]].reshape(shape)
    return out
