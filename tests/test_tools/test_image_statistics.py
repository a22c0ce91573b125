"""tools/analysis_tools/image_statistics.py: against all pixels at once, and as a user runs it."""

import re

import numpy as np
import pytest
import torch
from conftest import load_tool
from mmengine.config import Config

from mmdet.analysis.image_statistics import image_statistics
from mmdet.registry import DATASETS


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/analysis_tools/image_statistics.py')


def test_images_of_one_size_against_all_pixels_at_once():
    torch.manual_seed(0)
    images = torch.rand(5, 3, 7, 4, dtype=torch.float64) * torch.rand(5, 3, 1, 1) + torch.rand(5, 3, 1, 1)
    pixels = images.transpose(0, 1).flatten(1).numpy()
    found = image_statistics(images)
    np.testing.assert_allclose(found.mean, pixels.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(1), rtol=1e-12)
    # What is left of the variance when each image's own mean is taken away
    left = (images - images.mean((2, 3), keepdim=True)).transpose(0, 1).flatten(1).numpy().var(1)
    np.testing.assert_allclose(found.between, 1 - left / pixels.var(1), rtol=1e-12)
    assert found.images == 5


def test_share_at_its_ends():
    flat = [torch.full((1, 2, 2), value, dtype=torch.uint8) for value in (0, 255)]
    assert image_statistics(flat).between.tolist() == [1]
    assert image_statistics([torch.tensor([[[0, 255]]], dtype=torch.uint8)] * 3).between.tolist() == [0]
    assert image_statistics(flat[:1]).between.tolist() == [0]


def test_each_image_weighs_the_same():
    found = image_statistics([torch.zeros(1, 10, 10), torch.ones(1, 1, 1)])
    assert (found.mean.item(), found.std.item()) == (0.5, 0.5)


def test_refusals():
    with pytest.raises(ValueError, match='no images'):
        image_statistics([])
    with pytest.raises(ValueError, match='image 1 has 3 channels, those before it 1'):
        image_statistics([torch.zeros(1, 2, 2), torch.zeros(3, 2, 2)])


@pytest.mark.parametrize('rgb', [True, False])
def test_tool(tool, tiny_config, capsys, rgb):
    tool.main(
        [
            str(tiny_config),
            '--phase',
            'val',
            '--show-number',
            '4',
            '--cfg-options',
            f'model.data_preprocessor.bgr_to_rgb={rgb}',
        ]
    )
    out = capsys.readouterr().out
    dataset = DATASETS.build(Config.fromfile(tiny_config).val_dataloader.dataset)
    pixels = np.stack([dataset[i]['inputs'].flatten(1).numpy() for i in range(4)], 1).reshape(3, -1)
    pixels = pixels[::-1] if rgb else pixels
    assert '4 images of the val pipeline' in out
    for name in ('mean', 'std'):
        values = re.search(rf'{name}=\[(.*)\]', out)[1].split(', ')
        np.testing.assert_allclose([float(value) for value in values], getattr(pixels, name)(1), atol=0.006)
    assert len(re.search('between images: (.*)', out)[1].split(', ')) == 3


def test_no_images_wanted_is_refused(tool, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['config.py', '--show-number', '0'])
    assert '--show-number: 0: must be a whole number, 1 or more' in capsys.readouterr().err
