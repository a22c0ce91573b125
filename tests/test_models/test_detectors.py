"""Whole detectors: every mode, names of the parameters, the published configs."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmdet.ops.norm import CBN
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def build(tiny_config, **options):
    cfg = Config.fromfile(str(tiny_config))
    cfg.merge_from_dict(options)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model, cfg


def batch(cfg, number=2):
    from mmdet.registry import DATASETS

    data = DATASETS.build(cfg.train_dataloader.dataset)
    items = [data[i] for i in range(number)]
    return dict(inputs=[i['inputs'] for i in items], data_samples=[i['data_samples'] for i in items])


def test_modes_and_gradients(tiny_config):
    model, cfg = build(tiny_config)
    data = model.data_preprocessor(batch(cfg), True)
    assert data['data_samples'][0].batch_input_shape == tuple(data['inputs'].shape[-2:]) == (64, 64)
    losses = model(**data, mode='loss')
    assert set(losses) == {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'acc', 'loss_bbox', 'loss_mask'}
    total, _ = model.parse_losses(losses)
    total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    model.eval()
    data = model.data_preprocessor(batch(cfg), False)
    found = model(**data, mode='predict')[0].pred_instances
    height, width = data['data_samples'][0].ori_shape
    assert found.masks.shape == (len(found), height, width) and found.masks.dtype == torch.bool
    assert len(found) and (found.bboxes[:, 2:] <= torch.tensor([width, height]) + 1e-3).all()
    [(scores, deltas, masks)] = model(data['inputs'], mode='tensor')
    assert scores.shape[1] == 4 and deltas.shape == (len(scores), 12) and masks.shape[1:] == (3, 28, 28)
    with pytest.raises(ValueError, match='mode'):
        model(data['inputs'], mode='train')


def test_images_without_objects_train(tiny_config):
    model, cfg = build(tiny_config)
    data = batch(cfg)
    for sample in data['data_samples']:
        sample.gt_instances = sample.gt_instances[torch.zeros(len(sample.gt_instances), dtype=torch.bool)]
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert losses['loss_mask'].item() == 0 and total.isfinite()
    assert all(p.grad is not None for p in model.parameters())


def test_detections_do_not_depend_on_the_scale_of_the_input(tiny_config):
    """Boxes and masks come back in the original image's pixels."""
    model, cfg = build(tiny_config)
    model.eval()
    nn.init.constant_(model.roi_head.mask_head.conv_logits.bias, 5)  # masks fill their boxes
    data = model.data_preprocessor(batch(cfg, 1), False)
    meta = data['data_samples'][0]
    plain = model(**data, mode='predict')[0].pred_instances
    meta.set_metainfo(dict(ori_shape=(32, 128), scale_factor=(0.5, 2.0)))
    scaled = model(**data, mode='predict')[0].pred_instances
    torch.testing.assert_close(scaled.bboxes * torch.tensor([0.5, 2.0, 0.5, 2.0]), plain.bboxes)
    assert scaled.masks.shape[1:] == (32, 128)
    ratio = scaled.masks.sum((1, 2)).float() / plain.masks.sum((1, 2)).clamp(min=1)
    large = plain.masks.sum((1, 2)) > 100
    assert large.any() and (ratio[large] - 1).abs().max() < 0.2


PUBLISHED = [
    f'{model}_rcnn_r50_fpn{norm}_1x'
    for model in ('faster', 'mask')
    for norm in ('', '_syncbn', '_gn', '_cbn_buffer3_burnin8')
]


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_config(name):
    cfg = Config.fromfile(str(ROOT / 'configs' / 'cbn' / f'{name}.py'))
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    number = 16 if 'mask' in name else 12
    layers = dict(cbn=CBN, gn=nn.GroupNorm, syncbn=nn.SyncBatchNorm)
    kind = next((key for key in ('syncbn', 'cbn', 'gn') if f'_{key}_' in name), None)
    for key, layer in layers.items():
        found = [n for n, m in model.named_modules() if isinstance(m, layer)]
        assert len(found) == (number if key == kind else 0), (key, found)
        assert not any(n.startswith('backbone') for n in found)
    model.train()
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.training and not module.weight.requires_grad
    if kind == 'cbn':
        layer = next(m for m in model.modules() if isinstance(m, CBN))
        assert (layer.buffer_num, layer.burnin, layer.by_epoch, layer.two_stage) == (3, 8, True, True)
    train, test = cfg.model.train_cfg, cfg.model.test_cfg
    assert (train.rpn.sampler.num, train.rcnn.sampler.num) == (256, 512)
    assert train.rpn_proposal.max_per_img == test.rpn.max_per_img == 2000 and test.rpn.nms.iou_threshold == 0.7
    assert (test.rcnn.score_thr, test.rcnn.nms.iou_threshold, test.rcnn.max_per_img) == (0.05, 0.5, 100)
    assert cfg.model.rpn_head.loss_bbox.beta == pytest.approx(1 / 9)
    assert cfg.model.roi_head.bbox_head.loss_bbox.beta == 1
    assert cfg.model.roi_head.bbox_head.type == 'Shared4Conv1FCBBoxHead'
    assert cfg.model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio == 2
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.02, 0.9, 1e-4)
    assert cfg.optim_wrapper.clip_grad.max_norm == 35 and cfg.train_cfg.max_epochs == 12
    assert cfg.param_scheduler[0].start_factor == pytest.approx(1 / 3) and cfg.param_scheduler[0].end == 500
    assert cfg.param_scheduler[1].milestones == [8, 11] and cfg.train_dataloader.batch_size == 4
    resize = [t for t in cfg.train_pipeline if t.type == 'Resize'][0]
    assert tuple(resize.scale) == (1333, 800)


def test_parameter_names_of_mmdetection():
    cfg = Config.fromfile(str(ROOT / 'configs' / '_base_' / 'models' / 'mask-rcnn_r50_fpn.py'))
    cfg.model.backbone.init_cfg = None
    keys = set(MODELS.build(cfg.model).state_dict())
    assert {
        'backbone.layer1.0.conv1.weight',
        'backbone.layer1.0.downsample.1.running_mean',
        'neck.lateral_convs.0.conv.weight',
        'neck.fpn_convs.3.conv.bias',
        'rpn_head.rpn_conv.weight',
        'rpn_head.rpn_cls.weight',
        'rpn_head.rpn_reg.bias',
        'roi_head.bbox_head.shared_fcs.1.weight',
        'roi_head.bbox_head.fc_cls.weight',
        'roi_head.bbox_head.fc_reg.weight',
        'roi_head.mask_head.convs.3.conv.weight',
        'roi_head.mask_head.upsample.weight',
        'roi_head.mask_head.conv_logits.weight',
    } <= keys
    assert not any(key.startswith('data_preprocessor') for key in keys)
