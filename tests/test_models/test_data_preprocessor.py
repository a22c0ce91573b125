"""Normalizing and padding by hand."""

import numpy as np
import torch
from mmengine.structures import InstanceData

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks


def test_channels_normalization_padding_and_masks():
    images = [
        torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8),
        torch.randint(0, 256, (3, 50, 20), dtype=torch.uint8),
    ]
    samples = []
    for image in images:
        sample = DetDataSample()
        sample.gt_instances = InstanceData(masks=BitmapMasks(np.ones((2, *image.shape[1:])), *image.shape[1:]))
        samples.append(sample)
    mean, std = [100.0, 110, 120], [10.0, 20, 30]
    layer = DetDataPreprocessor(mean, std, pad_size_divisor=32, pad_mask=True, bgr_to_rgb=True)
    out = layer(dict(inputs=images, data_samples=samples), training=True)
    assert out['inputs'].shape == (2, 3, 64, 64)
    for i, image in enumerate(images):
        height, width = image.shape[1:]
        rgb = image.float().flip(0)
        want = (rgb - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        assert torch.equal(out['inputs'][i, :, :height, :width], want)
        assert not out['inputs'][i, :, height:].any() and not out['inputs'][i, :, :, width:].any()
        masks = out['data_samples'][i].gt_instances.masks
        assert masks.masks.shape == (2, 64, 64) and masks.areas.tolist() == [height * width] * 2
    samples = out['data_samples']
    assert [s.pad_shape for s in samples] == [(32, 64), (64, 32)] and samples[0].batch_input_shape == (64, 64)


def test_no_samples():
    out = DetDataPreprocessor()(dict(inputs=[torch.zeros(3, 5, 6, dtype=torch.uint8)], data_samples=None))
    assert out['inputs'].shape == (1, 3, 5, 6)
