"""The second stage: losses from plain loops, batches without objects or detections."""

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch.nn import functional as F
from torchvision.ops import box_iou, roi_align

from mmdet.models.roi_heads import StandardRoIHead
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks

SIZE, CLASSES, CHANNELS = 64, 3, 4


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def roi_head(mask=True, norm=None, **options):
    torch.manual_seed(0)
    extractor = dict(type='SingleRoIExtractor', out_channels=CHANNELS, featmap_strides=[4, 8], finest_scale=14)
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False)
    head = StandardRoIHead(
        dict(extractor, roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
        dict(type='Shared2FCBBoxHead', in_channels=CHANNELS, fc_out_channels=8, num_classes=CLASSES),
        dict(extractor, roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=2)) if mask else None,
        dict(
            type='FCNMaskHead',
            num_convs=1,
            in_channels=CHANNELS,
            conv_out_channels=CHANNELS,
            num_classes=CLASSES,
            norm_cfg=norm,
        )
        if mask
        else None,
        # num=1000: everything is sampled, nothing is left to chance.
        train_cfg=dict(
            assigner=assigner,
            mask_size=28,
            pos_weight=-1,
            sampler=dict(type='RandomSampler', num=1000, pos_fraction=0.5, add_gt_as_proposals=True),
        ),
        test_cfg=dict(
            score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5, **options
        ),
    )
    head.init_weights()
    return head


def data(objects=(2, 1), seed=0):
    """Maps of two levels, 30 proposals an image and ground truth with full boxes as masks."""
    rng = torch.Generator().manual_seed(seed)
    number = len(objects)
    feats = [torch.randn(number, CHANNELS, SIZE // s, SIZE // s, generator=rng) for s in (4, 8)]
    samples, proposals = [], []
    for count in objects:
        corner = (torch.rand(count, 2, generator=rng) * 30).round()
        boxes = torch.cat([corner, corner + 12 + (torch.rand(count, 2, generator=rng) * 15).round()], 1)
        masks = np.zeros((count, SIZE, SIZE), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        sample = DetDataSample(metainfo=dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.arange(count) % CLASSES, masks=BitmapMasks(masks, SIZE, SIZE)
        )
        samples.append(sample)
        near = boxes.repeat(10, 1)[:15] + torch.randn(len(boxes.repeat(10, 1)[:15]), 4, generator=rng) * 3
        corner = torch.rand(30 - len(near), 2, generator=rng) * 40
        near = torch.cat([near, torch.cat([corner, corner + 5 + torch.rand(len(corner), 2, generator=rng) * 30], 1)])
        proposals.append(InstanceData(bboxes=near.clamp(0, SIZE), scores=torch.rand(30, generator=rng)))
    return feats, proposals, samples


def test_losses_equal_plain_loops():
    head = roi_head().double()
    feats, proposals, samples = data()
    feats = [x.double() for x in feats]
    for p, s in zip(proposals, samples):
        p.bboxes, s.gt_instances.bboxes = p.bboxes.double(), s.gt_instances.bboxes.double()
    losses = head.loss(feats, proposals, samples)
    classes, boxes, masks, number, hits = 0, 0, [], 0, 0
    for i, (proposal, sample) in enumerate(zip(proposals, samples)):
        gt = sample.gt_instances
        for prior in torch.cat([gt.bboxes, proposal.bboxes]):
            iou, best = box_iou(prior[None], gt.bboxes)[0].max(0)
            label = gt.labels[best].item() if iou >= 0.5 else CLASSES
            area = ((prior[2] - prior[0]) * (prior[3] - prior[1])).item() ** 0.5
            level = 0 if area < 28 else 1
            roi = torch.cat([torch.tensor([i]).double(), prior])[None]

            def crop(size, ratio):
                return roi_align(feats[level], roi, size, 1 / (4, 8)[level], ratio, True)

            score, delta = head.bbox_head(crop(7, -1))
            classes = classes + F.cross_entropy(score, torch.tensor([label]))
            hits += int(score.argmax() == label)
            number += 1
            if label == CLASSES:
                continue
            target = head.bbox_head.bbox_coder.encode(prior[None], gt.bboxes[best : best + 1])[0]
            boxes = boxes + F.smooth_l1_loss(delta.view(CLASSES, 4)[label], target, reduction='sum')
            own = torch.from_numpy(gt.masks.masks[best : best + 1, None]).double()
            goal = roi_align(own, [prior[None]], 28, 1.0, -1, True)[0, 0] >= 0.5
            logits = head.mask_head(crop(14, 2))[0, label]
            masks.append(F.binary_cross_entropy_with_logits(logits, goal.double()))
    assert 10 < len(masks) < number
    torch.testing.assert_close(losses['loss_cls'], classes / number, rtol=1e-6, atol=0)
    torch.testing.assert_close(losses['loss_bbox'], boxes / number, rtol=1e-6, atol=0)
    torch.testing.assert_close(losses['loss_mask'][0], torch.stack(masks).mean(), rtol=1e-6, atol=0)
    assert losses['acc'].item() == pytest.approx(100 * hits / number)


@pytest.mark.parametrize(
    'norm', [None, dict(type='BN'), dict(type='SyncBN'), dict(type='GN', num_groups=2), dict(type='CBN', buffer_num=2)]
)
def test_batch_without_objects_leaves_the_statistics_and_gives_every_parameter_a_gradient(norm):
    head = roi_head(norm=norm)
    before = {name: buffer.clone() for name, buffer in head.named_buffers() if 'running' in name}
    losses = head.loss(*data(objects=(0, 0)))
    sum(value.sum() for name, value in losses.items() if 'loss' in name).backward()
    assert losses['loss_mask'].item() == losses['loss_bbox'].item() == 0 and losses['loss_cls'] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert not any(p.grad.any() for p in head.mask_head.parameters())
    for name, buffer in head.named_buffers():
        assert name not in before or torch.equal(buffer, before[name]), name


def test_objects_themselves_are_proposals():
    feats, proposals, samples = data()
    none = [InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0)) for _ in samples]
    losses = roi_head().loss(feats, none, samples)
    assert losses['loss_mask'].item() > 0 and losses['loss_bbox'].isfinite()


@pytest.mark.parametrize('norm', [None, dict(type='GN', num_groups=2), dict(type='CBN', buffer_num=2)])
def test_no_detection_in_one_image_or_in_any(norm):
    head = roi_head(norm=norm).eval()
    feats, proposals, samples = data()
    proposals[0] = proposals[0][:0]
    found = head.predict(feats, proposals, samples, rescale=True)
    assert len(found[0]) == 0 and found[0].masks.shape == (0, SIZE, SIZE) and len(found[1]) > 0
    head.test_cfg['score_thr'] = 1.0
    found = head.predict(feats, proposals, samples, rescale=True)
    for result in found:
        assert result.bboxes.shape == (0, 4) and result.masks.shape == (0, SIZE, SIZE)
        assert result.scores.shape == result.labels.shape == (0,) and result.masks.dtype == torch.bool
    found = head.predict(feats, [p[:0] for p in proposals], samples)
    assert [len(result) for result in found] == [0, 0]


def test_an_image_is_judged_alone():
    """The detections do not depend on the other images of the batch."""
    head = roi_head().eval()
    feats, proposals, samples = data()
    both = head.predict(feats, proposals, samples)
    for i in range(2):
        alone = head.predict([x[i : i + 1] for x in feats], proposals[i : i + 1], samples[i : i + 1])[0]
        torch.testing.assert_close(alone.bboxes, both[i].bboxes)
        torch.testing.assert_close(alone.scores, both[i].scores)
        assert torch.equal(alone.masks, both[i].masks) and len(alone)


def test_boxes_only():
    head = roi_head(mask=False)
    feats, proposals, samples = data()
    for sample in samples:
        del sample.gt_instances.masks
    assert set(head.loss(feats, proposals, samples)) == {'loss_cls', 'acc', 'loss_bbox'}
    assert 'masks' not in head.predict(feats, proposals, samples)[0]
    assert not any('mask' in name for name in head.state_dict())


@pytest.mark.parametrize('mask', [True, False])
def test_rescale_divides_width_and_height_by_their_own_factors(mask):
    head = roi_head(mask).eval()
    if mask:
        torch.nn.init.constant_(head.mask_head.conv_logits.bias, 9)  # masks fill their boxes
    feats, proposals, samples = data((1,))
    plain = head.predict(feats, proposals, samples, rescale=False)[0]
    samples[0].set_metainfo(dict(scale_factor=(0.5, 2.0), ori_shape=(SIZE // 2, SIZE * 2)))
    found = head.predict(feats, proposals, samples, rescale=True)[0]
    torch.testing.assert_close(found.bboxes, plain.bboxes / torch.tensor([0.5, 2, 0.5, 2]))
    torch.testing.assert_close(found.scores, plain.scores)
    assert len(found) and (not mask or found.masks.shape[1:] == (SIZE // 2, SIZE * 2))
    for (x1, y1, x2, y2), drawn in zip(found.bboxes.tolist(), found.masks if mask else []):
        rows, columns = torch.arange(SIZE // 2) + 0.5, torch.arange(SIZE * 2) + 0.5
        inside = ((rows > y1) & (rows < y2))[:, None] & (columns > x1) & (columns < x2)
        # Logit 9 is set up to the half cell before the edge at least.
        assert drawn.sum() > 0 and (drawn & ~inside).sum() == 0 and drawn.sum() >= 0.9 * inside.sum() - 8


def c4_head(own_extractor):
    """As in the C4 models: a stage of ResNet on the regions; masks from the box branch's features or from their own."""
    torch.manual_seed(0)
    extractor = dict(
        type='SingleRoIExtractor',
        out_channels=64,
        featmap_strides=[4],
        roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
    )
    head = StandardRoIHead(
        extractor,
        dict(type='BBoxHead', with_avg_pool=True, roi_feat_size=7, in_channels=128, num_classes=CLASSES),
        extractor if own_extractor else None,
        dict(type='FCNMaskHead', num_convs=0, in_channels=128, conv_out_channels=8, num_classes=CLASSES),
        shared_head=dict(type='ResLayer', depth=18, stage=1),
        train_cfg=dict(roi_head().train_cfg, mask_size=14),
        test_cfg=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5),
    )
    head.init_weights()
    return head.train()


def test_shared_head():
    _, proposals, samples = data()
    feats = [torch.randn(2, 64, SIZE // 4, SIZE // 4)]
    shared, own = c4_head(False), c4_head(True)
    own.load_state_dict(shared.state_dict())
    passes = []
    for head in (shared, own):
        head.shared_head.register_forward_hook(lambda *_: passes.append(1))
    losses, expected = shared.loss(feats, proposals, samples), own.loss(feats, proposals, samples)
    assert len(passes) == 3  # the box branch's features serve the masks too
    assert losses.keys() == expected.keys() and losses['loss_mask'] > 0
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)

    rois = torch.cat([torch.zeros(30, 1), proposals[0].bboxes], 1)
    maps = shared.shared_head.layer2(roi_align(feats[0], rois, 14, 0.25, -1, True))
    found = shared._bbox_forward(feats, rois)
    scores, deltas = found['cls_score'], found['bbox_pred']
    torch.testing.assert_close(scores, shared.bbox_head.fc_cls(maps.mean((2, 3))))
    torch.testing.assert_close(deltas, shared.bbox_head.fc_reg(maps.mean((2, 3))))
    assert scores.std(0).min() > 0

    for found, wanted in zip(*(head.eval().predict(feats, proposals, samples) for head in (shared, own))):
        assert len(found) and torch.equal(found.bboxes, wanted.bboxes) and torch.equal(found.masks, wanted.masks)
    _, proposals, samples = data((0, 0))
    losses = shared.train().loss(feats, proposals, samples)
    sum(losses[name] for name in ('loss_cls', 'loss_bbox', 'loss_mask')).sum().backward()
    assert losses['loss_mask'].item() == 0 and all(p.grad is not None for p in shared.parameters())
