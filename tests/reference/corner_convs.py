"""The convolutions that CBN must follow: layer and input shape, by name."""

from mmcv.cnn.bricks import Conv2dAdaptivePadding
from torch import nn

CONVS = {
    '3x3': (lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), (2, 4, 7, 6)),
    '1x1': (lambda: nn.Conv2d(4, 6, 1, bias=False), (2, 4, 5, 5)),
    'bias': (lambda: nn.Conv2d(4, 6, 3), (2, 4, 7, 6)),
    'stride': (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 8)),
    'stride_1x1': (lambda: nn.Conv2d(4, 6, 1, stride=2), (2, 4, 7, 8)),
    'padded_1x1': (lambda: nn.Conv2d(4, 6, 1, padding=1), (2, 4, 5, 5)),
    'dilation': (lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=(2, 1), stride=(1, 3)), (2, 4, 7, 8)),
    'groups': (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 7, 8)),
    'depthwise': (lambda: nn.Conv2d(4, 8, (3, 1), groups=4), (2, 4, 7, 8)),
    'same': (lambda: nn.Conv2d(4, 6, (2, 3), padding='same'), (2, 4, 7, 8)),
    'reflect': (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode='reflect'), (2, 4, 7, 8)),
    'tensorflow': (lambda: Conv2dAdaptivePadding(4, 6, (5, 2), stride=2), (2, 4, 7, 8)),
    'transposed': (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 3, 4)),
    'transposed_groups': (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        (2, 4, 3, 4),
    ),
    'conv1d': (lambda: nn.Conv1d(4, 6, 3), (3, 4, 9)),
    'conv3d': (lambda: nn.Conv3d(2, 3, (2, 1, 3), stride=(1, 2, 1)), (2, 2, 4, 3, 4)),
    'linear': (lambda: nn.Linear(5, 6), (9, 5)),
}
