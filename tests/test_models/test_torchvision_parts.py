"""What the configs in configs/torchvision/ set: its anchors, its order of proposals, its smallest boxes."""

import pytest
import torch
from mmengine.config import ConfigDict
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads import Shared2FCBBoxHead
from mmdet.models.task_modules import TorchvisionAnchorGenerator


@pytest.mark.parametrize('height, width', [(256, 320), (352, 288), (32, 1056)])
def test_anchors_are_torchvisions(height, width):
    maps = [torch.zeros(1, 1, height // stride, width // stride) for stride in (4, 8, 16, 32)]
    maps.append(torch.nn.functional.max_pool2d(maps[-1], 1, stride=2))
    theirs = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    [expected] = theirs(ImageList(torch.zeros(1, 3, height, width), [(height, width)]), maps)
    ours = TorchvisionAnchorGenerator(strides=[4, 8, 16, 32, 64], ratios=[0.5, 1.0, 2.0], scales=[8])
    anchors = ours.grid_priors([tuple(x.shape[-2:]) for x in maps])
    assert torch.equal(torch.cat(anchors), expected)


@pytest.mark.parametrize('nms_pre', [-1, 40])
def test_proposals_of_equal_scores_are_in_the_order_of_their_logits(nms_pre):
    head = RPNHead(
        4, anchor_generator=dict(type='AnchorGenerator', scales=[1], ratios=[1.0], strides=[8], center_offset=0.5)
    )
    logits = 30 + torch.randperm(64, generator=torch.Generator().manual_seed(0)).view(1, 1, 8, 8).float()
    assert (logits.sigmoid() == 1).all()
    cfg = ConfigDict(nms_pre=nms_pre, max_per_img=64, nms=dict(type='nms', iou_threshold=0.7), rank_logits=True)
    metas = [dict(img_shape=(64, 64))]
    [found] = head.predict_by_feat([logits], [torch.zeros(1, 4, 8, 8)], batch_img_metas=metas, cfg=cfg)
    cells = (found.bboxes[:, :2] / 8).long()
    order = logits[0, 0][cells[:, 1], cells[:, 0]]
    assert len(order) == (nms_pre if nms_pre > 0 else 64)
    assert torch.equal(order, torch.arange(93.0, 93 - len(order), -1))


def test_boxes_moved_out_of_the_image_are_left_out():
    head = Shared2FCBBoxHead(in_channels=2, roi_feat_size=3, fc_out_channels=5, num_classes=2)
    rois = torch.tensor([[0, 10.0, 10, 30, 30], [0, 40.0, 40, 60, 60]])
    deltas = torch.zeros(2, 8)
    deltas[1, 4] = 100.0  # the second class's box goes 200 pixels to the right
    cfg = ConfigDict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)
    meta = dict(img_shape=(64, 64), scale_factor=(1e-4, 1e-4))  # sides are those in the network's input
    found = [
        head.predict_by_feat([rois], [torch.zeros(2, 3)], [deltas], [meta], ConfigDict(cfg, **more), rescale=True)[0]
        for more in (dict(), dict(min_bbox_size=1e-2))
    ]
    assert [len(one) for one in found] == [4, 3]
    assert (found[1].bboxes[:, 2:] > found[1].bboxes[:, :2]).all()
