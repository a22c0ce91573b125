"""Detections of one call equal those of tools/test.py; every kind of image; what is refused and how."""

import copy
import pickle

import cv2
import numpy as np
import pytest
import torch
from conftest import load_tool
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope

from mmdet.apis import inference_detector, init_detector
from mmdet.datasets.coco import COCO_CLASSES
from mmdet.structures.mask import encode_mask_results
from mmdet.utils import get_test_pipeline_cfg

CLASSES = ('circle', 'square', 'triangle')


@pytest.fixture(scope='module')
def checkpoint(tiny_config, tmp_path_factory):
    """Random weights, large enough that images matter, and averages that only evaluation mode uses."""
    torch.manual_seed(0)
    model = init_detector(tiny_config, device='cpu')
    for value in model.parameters():
        if value.dim() > 1:
            torch.nn.init.kaiming_normal_(value)
    for name, value in model.named_buffers():
        if name.endswith('running_mean'):
            value.copy_(torch.randn_like(value) * 0.1)
    path = tmp_path_factory.mktemp('apis') / 'random.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict()), path)
    return str(path)


@pytest.fixture(scope='module')
def model(tiny_config, checkpoint):
    return init_detector(tiny_config, checkpoint, device='cpu')


@pytest.fixture(scope='module')
def images(tiny_shapes):
    return sorted(str(path) for path in (tiny_shapes / 'val').iterdir())


def same(a, b):
    a, b = a.pred_instances, b.pred_instances
    return len(a) > 0 and set(a.keys()) == set(b.keys()) and all((a[key] == b[key]).all() for key in a.keys())


def test_results_are_those_of_the_test_tool(model, images, tiny_config, checkpoint, tmp_path):
    tool = load_tool('tools/test.py')
    tool.main([str(tiny_config), checkpoint, '--work-dir', str(tmp_path), '--out', str(tmp_path / 'out.pkl')])
    found = {
        result['img_path']: result['pred_instances'] for result in pickle.loads((tmp_path / 'out.pkl').read_bytes())
    }
    assert set(found) == set(images)
    for path, sample in zip(images, inference_detector(model, images)):
        ours, theirs = sample.pred_instances, found[path]
        assert len(ours) == 10
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(ours[key], theirs[key])
        assert encode_mask_results(ours.masks) == theirs['masks']


def test_every_kind_of_image(model, images):
    path = images[0]
    array = cv2.imread(path)
    by_path = inference_detector(model, path)
    assert by_path.img_path == path and by_path.pred_instances.masks.shape[1:] == array.shape[:2]
    assert by_path.pred_instances.masks.dtype == torch.bool
    assert same(by_path, inference_detector(model, array))
    assert same(by_path, inference_detector(model, np.asfortranarray(array)))
    assert same(by_path, inference_detector(model, array.astype(np.float32)))
    several = inference_detector(model, (array, images[1], path))
    assert isinstance(several, list) and [sample.img_path for sample in several] == [None, images[1], path]
    assert same(several[0], by_path) and same(several[2], by_path) and not same(several[1], by_path)
    assert inference_detector(model, []) == []
    bgr = inference_detector(model, np.ascontiguousarray(array[..., ::-1]))
    assert not same(by_path, bgr)


def test_a_pipeline_of_the_callers(model, images):
    pipeline = get_test_pipeline_cfg(model.cfg)
    before = copy.deepcopy(model.cfg)
    pipeline[0].type = 'mmdet.LoadImageFromNDArray'  # as mmdetection's notebooks do, in the model's own config
    array = cv2.imread(images[0])
    ours = inference_detector(model, array, test_pipeline=Compose(pipeline))
    assert same(ours, inference_detector(model, array)) and same(ours, inference_detector(model, images[0]))
    pipeline[0].type = 'LoadImageFromFile'
    assert model.cfg.to_dict() == before.to_dict()


def test_annotations_in_the_test_pipeline_are_not_needed(model, images, tiny_config, checkpoint):
    cfg = Config.fromfile(tiny_config)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='LoadAnnotations', with_bbox=True, with_mask=True))
    assert same(
        inference_detector(init_detector(cfg, checkpoint, device='cpu'), images[0]),
        inference_detector(model, images[0]),
    )


def test_training_mode_changes_nothing(model, images):
    before = copy.deepcopy(model.state_dict())
    plain = inference_detector(model, images[0])
    model.train()
    try:
        assert same(inference_detector(model, images[0]), plain)
        assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    finally:
        model.eval()


@pytest.mark.parametrize(
    'image, error, says',
    [
        ('no/such.jpg', FileNotFoundError, 'no/such.jpg'),
        ('{here}', ValueError, '{here}.*image'),
        (np.zeros((8, 8, 3), np.float64), ValueError, r'uint8.*BGR.*\(8, 8, 3\) of float64'),
        (np.full((8, 8, 3), 0.5, np.float32), ValueError, r'0 to 255, got float32 up to 0.500'),
        (np.zeros((8, 8), np.uint8), ValueError, r'\(H, W, 3\).*\(8, 8\)'),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r'\(0, 8, 3\)'),
        (torch.zeros(8, 8, 3), TypeError, 'path or an array.*Tensor'),
    ],
)
def test_no_image(model, image, error, says):
    if isinstance(image, str):
        image, says = image.format(here=__file__), says.format(here=__file__)
    with pytest.raises(error, match=says):
        inference_detector(model, image)


# -- building ---------------------------------------------------------------------------------------------------------


def test_config_object_options_and_no_pretrained_weights(tiny_config):
    cfg = Config.fromfile(tiny_config)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='/no/such.pth')
    before = cfg.to_dict()
    model = init_detector(cfg, device='cpu', cfg_options={'model.test_cfg.rcnn.max_per_img': 7})
    assert not model.training and model.cfg.model.test_cfg.rcnn.max_per_img == 7
    assert cfg.to_dict() == before and model.cfg.model.backbone.get('init_cfg') is None
    assert model.roi_head.test_cfg.max_per_img == 7


def test_classes_and_colours(tiny_config, checkpoint, tmp_path):
    saved = torch.load(checkpoint)

    def meta(config=tiny_config, palette='none', **entries):
        torch.save(dict(saved, meta=entries), tmp_path / 'x.pth')
        return init_detector(config, str(tmp_path / 'x.pth'), 'cpu', palette=palette).dataset_meta

    three = dict(dataset_meta=dict(classes=('a', 'b', 'c'), palette=[(1, 2, 3), (4, 5, 6), (7, 8, 9)]))
    assert meta(**three)['classes'] == ('a', 'b', 'c') and meta(**three)['palette'][1] == (4, 5, 6)
    assert meta(palette=[(9, 9, 9)], **three)['palette'] == [(9, 9, 9)] * 3
    assert meta(CLASSES=('d', 'e', 'f'))['classes'] == ('d', 'e', 'f')
    elsewhere = Config.fromfile(tiny_config)
    elsewhere.test_dataloader.dataset.data_root = '/no/such/folder'
    found = meta(elsewhere)
    assert tuple(found['classes']) == CLASSES and len(set(found['palette'])) == 3


def test_classes_of_a_wrapped_data_set_or_else_cocos(tiny_config, monkeypatch):
    cfg = Config.fromfile(tiny_config)
    inner = dict(cfg.train_dataloader.dataset)
    cfg.test_dataloader = None
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner])
    )
    assert tuple(init_detector(cfg, device='cpu').dataset_meta['classes']) == CLASSES
    said = []
    monkeypatch.setattr('mmdet.apis.inference.print_log', lambda text, *_: said.append(text))
    cfg.train_dataloader = None
    meta = init_detector(cfg, device='cpu').dataset_meta
    assert meta['classes'] == COCO_CLASSES and len(meta['palette']) == 80
    assert 'random' in said[0] and "COCO's" in said[1]


def test_another_scope_does_not_matter(tiny_config, checkpoint, images, model):
    init_default_scope('mmengine')
    other = init_detector(tiny_config, checkpoint, device='cpu')
    assert DefaultScope.get_current_instance().scope_name == 'mmdet'
    assert same(inference_detector(other, images[0]), inference_detector(model, images[0]))


@pytest.mark.parametrize(
    'arguments, error, says',
    [
        (dict(config='no/such.py'), FileNotFoundError, 'no/such.py'),
        (dict(config=5), TypeError, 'path of a config file or a Config.*int'),
        (dict(checkpoint='no/such.pth'), FileNotFoundError, 'no/such.pth'),
        (dict(palette='cuda:0'), ValueError, "palette 'cuda:0'.*known"),
        (dict(device='gpu'), ValueError, "device 'gpu'"),
        (dict(device='cuda:0'), ValueError, "cuda:0.*device='cpu'"),
        (dict(cfg_options={'model.backbone.deph': 18}), TypeError, 'deph'),
        (dict(cfg_options={'model.roi_head.bbox_head.fc_out_channels': 24}), ValueError, 'random.pth.*another model'),
    ],
)
def test_what_cannot_be_built(tiny_config, checkpoint, monkeypatch, arguments, error, says):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(error, match=says):
        init_detector(**{**dict(config=tiny_config, checkpoint=checkpoint), **arguments})


def test_a_checkpoint_that_would_run_code_needs_trust(tiny_config, checkpoint, tmp_path):
    class Surprise:
        def __reduce__(self):
            return print, ('run',)

    torch.save(dict(torch.load(checkpoint), extra=Surprise()), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='trust_checkpoint=True'):
        init_detector(tiny_config, str(tmp_path / 'x.pth'), device='cpu')
    init_detector(tiny_config, str(tmp_path / 'x.pth'), device='cpu', trust_checkpoint=True)
