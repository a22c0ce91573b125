"""TorchvisionAnchorGenerator against torchvision's."""
import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from mmdet.models.task_modules import TorchvisionAnchorGenerator


@pytest.mark.parametrize('height, width', [(256, 320), (352, 288), (32, 1056)])
def test_anchors_are_torchvisions(height, width):
    maps = [torch.zeros(1, 1, height // stride, width // stride) for stride in (4, 8, 16, 32)]
    maps.append(torch.nn.functional.max_pool2d(maps[-1], 1, stride=2))
    theirs = AnchorGenerator(((32, ), (64, ), (128, ), (256, ), (512, )), ((0.5, 1.0, 2.0), ) * 5)
    [expected] = theirs(ImageList(torch.zeros(1, 3, height, width), [(height, width)]), maps)
    ours = TorchvisionAnchorGenerator(strides=[4, 8, 16, 32, 64], ratios=[0.5, 1.0, 2.0], scales=[8])
    anchors = ours.grid_priors([tuple(x.shape[-2:]) for x in maps])
    assert torch.equal(torch.cat(anchors), expected)
