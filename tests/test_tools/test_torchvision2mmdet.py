"""tools/model_converters/torchvision2mmdet.py: the converted models detect what torchvision's do."""

import hashlib
from argparse import Namespace
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from conftest import ROOT, load_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch.nn import functional as F
from torchvision.models import detection

from mmdet.apis import inference_detector, init_detector
from mmdet.datasets.coco import COCO_CLASSES
from mmdet.registry import MODELS
from mmdet.run.ending import run_main
from mmdet.structures import DetDataSample

FASTER, MASK = 'fasterrcnn_resnet50_fpn', 'maskrcnn_resnet50_fpn'
UNUSED = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]  # of torchvision's indices
SIZES = ((200, 264), (290, 170))  # padded to 224 x 288, both to 320 x 288: no multiples of 64


@pytest.fixture(scope='module')
def tool():
    return load_tool('tools/model_converters/torchvision2mmdet.py')


def pictures(sizes, seed=0):
    """Smooth random images of (height, width), RGB in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    return [
        F.interpolate(torch.rand(1, 3, h // 8, w // 8, generator=generator), (h, w), mode='bilinear')[0]
        for h, w in sizes
    ]


@torch.no_grad()
def random_model(name, seed=0, size=200, **options):
    """torchvision's model with random weights and statistics, scaled so that detections and scores are diverse."""
    torch.manual_seed(seed)
    model = getattr(detection, name)(
        weights=None, weights_backbone=None, min_size=size, max_size=3 * size // 2, **options
    ).eval()
    example = model.transform(pictures(SIZES[:1], seed))[0].tensors
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.backbone.body.train()(example)  # activations of a sane size
    for norm in norms:
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 2)
        norm.running_mean += 0.1 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
    model.eval()
    heads = [
        (model.rpn.head.cls_logits, 0, 1.0),
        (model.rpn.head.bbox_pred, 0, 0.3),
        (model.roi_heads.box_predictor.cls_score, 0, 1.7),
        (model.roi_heads.box_predictor.bbox_pred, 0, 1.0),
    ]
    if name == MASK:  # masks that fill most of their boxes
        heads.append((model.roi_heads.mask_predictor.mask_fcn_logits, 2.5, 1.0))

    def scale(layer, mean, std):
        def hook(module, inputs, output):
            channel = [0] + list(range(2, output.dim()))
            factor = std / output.std(channel).mean()
            module.bias.copy_((module.bias - output.mean(channel)) * factor + mean)
            module.weight.mul_(factor)
            handle.remove()
            return module.forward(*inputs)

        handle = layer.register_forward_hook(hook)

    for head in heads:
        scale(*head)
    model(pictures(SIZES[:1], seed))
    return model


def our_model(tool, name, state, keep_unused=False, eps=1e-5, test_cfg=None):
    init_default_scope('mmdet')
    result = tool.convert(tool.Source('weights.pth', state, False), keep_unused, eps)
    assert result.name == name
    cfg = Config.fromfile(str(ROOT / tool.CONFIGS[name]))
    heads = ['bbox_head'] + ['mask_head'] * (name == MASK)
    cfg.merge_from_dict({f'model.roi_head.{head}.num_classes': result.num_classes for head in heads})
    cfg.merge_from_dict({f'model.test_cfg.{key}': value for key, value in (test_cfg or {}).items()})
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(result.state)
    return model


@torch.no_grad()
def detect(theirs, ours, images):
    """On the same preprocessed batch: torchvision's detections with ``probabilities`` of the masks, and ours."""
    batch, _ = theirs.transform(images)
    features = theirs.backbone(batch.tensors)
    expected, _ = theirs.roi_heads(features, theirs.rpn(batch, features)[0], batch.image_sizes)
    probabilities = [dict(probabilities=found['masks'][:, 0]) for found in expected if 'masks' in found]
    original = [tuple(image.shape[-2:]) for image in images]
    expected = theirs.transform.postprocess(expected, batch.image_sizes, original)
    for found, more in zip(expected, probabilities):
        found.update(more)
    samples = [
        DetDataSample(
            metainfo=dict(img_shape=size, ori_shape=shape, scale_factor=(size[1] / shape[1], size[0] / shape[0]))
        )
        for size, shape in zip(batch.image_sizes, original)
    ]
    return expected, [sample.pred_instances for sample in ours.predict(batch.tensors, samples)]


def assert_same(expected, found, index_of_label):
    """Each of torchvision's detections is among ours; returns (theirs, ours), the indices that belong together.

    Of 50 one may differ: an overlap of 0.5 but for rounding suppresses a box or not.
    """
    labels = torch.tensor(index_of_label)[found.labels]
    distance = (expected['boxes'][:, None] - found.bboxes).abs().amax(2)
    distance[expected['labels'][:, None] != labels] = float('inf')
    nearest, ours = distance.min(1)
    theirs = (nearest < 0.01).nonzero().flatten()
    ours = ours[theirs]
    assert len(found) == len(nearest) and len(theirs) == len(ours.unique()) >= len(found) - len(found) // 50
    assert (expected['scores'][theirs] - found.scores[ours]).abs().max() < 1e-4
    return theirs, ours


@pytest.fixture(scope='module')
def faster():
    return random_model(FASTER)


@pytest.fixture(scope='module')
def mask():
    """With fewer proposals and detections, for time."""
    model = random_model(MASK, rpn_pre_nms_top_n_test=200, rpn_post_nms_top_n_test=100, box_detections_per_img=10)
    with torch.no_grad():  # as trained weights: unused classes have no probability
        model.roi_heads.box_predictor.cls_score.bias[UNUSED] = -1e3
    return model


def test_faster_rcnn_detects_the_same(tool, faster):
    ours = our_model(tool, FASTER, faster.state_dict(), keep_unused=True)
    [expected], [found] = detect(faster, ours, pictures(SIZES[:1]))
    assert_same(expected, found, range(1, 91))
    assert len(found) == 100 and len(found.labels.unique()) > 10 and found.scores.std() > 0.05


def masks_of(model):
    """The logits that the mask head gives from now on."""
    logits = []
    model.roi_head.mask_head.register_forward_hook(lambda module, inputs, output: logits.append(output))
    return logits


def test_mask_rcnn_detects_the_same_without_the_unused_classes(tool, mask):
    model = our_model(
        tool, MASK, mask.state_dict(), test_cfg={'rpn.nms_pre': 200, 'rpn.max_per_img': 100, 'rcnn.max_per_img': 10}
    )
    logits = masks_of(model)
    kept = [i for i in range(1, 91) if i not in UNUSED]
    expected, found = detect(mask, model, pictures(SIZES))
    parts = logits[0].split([len(one) for one in found])
    for one, other, own in zip(expected, found, parts):
        theirs, ours = assert_same(one, other, kept)
        own = own[ours, other.labels[ours]].sigmoid()
        assert own.shape[1:] == (28, 28) and own.std() > 0.05
        assert (own - one['probabilities'][theirs]).abs().max() < 1e-4
        pasted, masks = one['masks'][theirs, 0] >= 0.5, other.masks[ours]
        overlap = (pasted & masks).flatten(1).sum(1) / (pasted | masks).flatten(1).sum(1)
        # torchvision rounds a mask's box to whole pixels.
        assert overlap.min() > 0.85 and overlap.mean() > 0.93


@pytest.mark.parametrize('name', [FASTER, MASK])
def test_configs_say_what_torchvision_does(tool, faster, name):
    model = Config.fromfile(str(ROOT / tool.CONFIGS[name])).model
    rpn, heads = faster.rpn, faster.roi_heads
    assert model.test_cfg.rpn == dict(
        nms_pre=rpn._pre_nms_top_n['testing'],
        max_per_img=rpn._post_nms_top_n['testing'],
        min_bbox_size=rpn.min_size,
        rank_logits=True,
        nms=dict(type='nms', iou_threshold=rpn.nms_thresh, split_thr=1001),
    )
    rcnn = dict(model.test_cfg.rcnn)
    assert rcnn.pop('mask_thr_binary', 0.5) == 0.5
    assert rcnn == dict(
        score_thr=heads.score_thresh,
        max_per_img=heads.detections_per_img,
        min_bbox_size=1e-2,
        nms=dict(type='nms', iou_threshold=heads.nms_thresh, split_thr=1001),
    )
    for coder, theirs in (
        (model.rpn_head.bbox_coder, rpn.box_coder),
        (model.roi_head.bbox_head.bbox_coder, heads.box_coder),
    ):
        assert coder.add_ctr_clamp and coder.ctr_clamp > 1e6
        assert coder.target_stds == pytest.approx([1 / weight for weight in theirs.weights])
        assert theirs.bbox_xform_clip == pytest.approx(np.log(1000 / 16))


@pytest.mark.slow
@pytest.mark.parametrize('name', [FASTER, MASK])
@pytest.mark.parametrize('seed', [1, 2])
def test_detects_the_same_at_full_size(tool, name, seed):
    theirs = random_model(name, seed, size=800)
    ours = our_model(tool, name, theirs.state_dict(), keep_unused=True)
    [expected], [found] = detect(theirs, ours, pictures([(427, 640)], seed))
    assert_same(expected, found, range(1, 91))


# -- the tool as it is called -------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def hub(tool, faster, tmp_path_factory):
    """A torch hub cache with the Faster R-CNN as if published, and the published address."""
    folder = tmp_path_factory.mktemp('torch')
    (folder / 'hub/checkpoints').mkdir(parents=True)
    path = folder / 'hub/checkpoints/file.pth'
    torch.save(faster.state_dict(), path, _use_new_zipfile_serialization=False)  # as torchvision's first files
    start = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path = path.rename(path.with_name(f'{FASTER}_coco-{start}.pth'))
    return folder, path


@pytest.fixture
def published(tool, hub, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(hub[0]))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    monkeypatch.setitem(tool.PUBLISHED, FASTER, f'https://example.org/{hub[1].name}')
    return hub[1]


def test_from_the_name_of_a_model_to_detections_in_an_image_file(
    tool, faster, published, tmp_path, capsys, monkeypatch
):
    out = tmp_path / 'new/ours.pth'
    tool.main([FASTER, str(out), '--keep-unused', '--norm-eps', '1e-5'])
    text = capsys.readouterr().out
    assert str(published) in text and 'classes: 90' in text
    assert 'faster-rcnn_r50_fpn_coco.py --cfg-options model.roi_head.bbox_head.num_classes=90' in text

    bgr = (pictures([(200, 264)], 5)[0].permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    mmcv.imwrite(bgr, str(tmp_path / 'image.png'))
    model = init_detector(
        ROOT / tool.CONFIGS[FASTER],
        str(out),
        device='cpu',
        cfg_options={
            'model.roi_head.bbox_head.num_classes': 90,
            'model.test_cfg.rpn.max_per_img': 200,
            'test_dataloader.dataset.pipeline.1.scale': (300, 200),
        },
    )
    classes = model.dataset_meta['classes']
    assert len(set(classes)) == 90 and classes[:2] == ('person', 'bicycle') and classes[11] == 'N/A 12'
    found = inference_detector(model, str(tmp_path / 'image.png')).pred_instances
    monkeypatch.setitem(faster.rpn._post_nms_top_n, 'testing', 200)  # for time
    rgb = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1) / 255
    with torch.no_grad():
        expected, swapped = faster([rgb])[0], faster([rgb.flip(0)])[0]
    assert_same(expected, found, range(1, 91))
    with pytest.raises(AssertionError):
        assert_same(swapped, found, range(1, 91))


def test_published_files_are_known_by_their_hash(tool, published, tmp_path):
    assert tool.read(tool.find(FASTER)).published
    other = tmp_path / 'other.pth'
    torch.save(dict(model={'a': torch.ones(1)}, args=Namespace(lr=0.02)), other)  # as torchvision's training script
    source = tool.read(str(other))
    assert not source.published and list(source.state) == ['a']
    named = other.rename(tmp_path / published.name)
    with pytest.raises(ValueError, match='cut off or changed'):
        tool.read(str(named))


def test_published_addresses_name_their_hash(tool):
    assert {Path(url).name for url in tool.PUBLISHED.values()} == {
        'fasterrcnn_resnet50_fpn_coco-258fb6c6.pth',
        'maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth',
    }


def test_missing_file_is_asked_for(tool, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    for src, says in (
        (MASK, f'maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth is not in {tmp_path}/hub/checkpoints'),
        (FASTER + '_v2', f'convertible are {FASTER} and {MASK}'),
        ('no.pth', 'no.pth: no such file'),
    ):
        assert run_main(lambda: tool.main([src, str(tmp_path / 'out.pth')])) == 1
        assert says in capsys.readouterr().err.split('\nerror: ')[-1] and not list(tmp_path.glob('out*'))


# -- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('model', ['faster', 'mask'])
def test_weights_fit_the_base_config_and_their_classes_its_order(tool, model, request):
    state = request.getfixturevalue(model).state_dict()
    result = tool.convert(tool.Source('weights.pth', state, False), False, 1e-5)
    with torch.device('meta'):
        init_default_scope('mmdet')
        base = MODELS.build(Config.fromfile(str(ROOT / f'configs/_base_/models/{model}-rcnn_r50_fpn.py')).model)
    assert {key: value.shape for key, value in base.state_dict().items()} == {
        key: value.shape for key, value in result.state.items()
    }
    assert result.classes == COCO_CLASSES and '12, 26, 29' in result.dropped[1]
    zebra = detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories'].index('zebra')
    ours, theirs = COCO_CLASSES.index('zebra'), 'roi_heads.box_predictor'
    fc_cls, fc_reg = (result.state[f'roi_head.bbox_head.{name}.weight'] for name in ('fc_cls', 'fc_reg'))
    assert ours != zebra - 1
    assert torch.equal(fc_cls[[ours, 80]], state[f'{theirs}.cls_score.weight'][[zebra, 0]])
    assert torch.equal(fc_reg[4 * ours : 4 * ours + 4], state[f'{theirs}.bbox_pred.weight'][4 * zebra : 4 * zebra + 4])


def test_any_other_number_of_classes_stays(tool, mask):
    state = mask.state_dict()
    for key in ('box_predictor.cls_score', 'box_predictor.bbox_pred', 'mask_predictor.mask_fcn_logits'):
        for kind in ('weight', 'bias'):
            rows = 12 if 'bbox' in key else 3
            state[f'roi_heads.{key}.{kind}'] = state[f'roi_heads.{key}.{kind}'][:rows]
    result = tool.convert(tool.Source('weights.pth', state, False), False, 1e-5)
    assert (result.num_classes, result.classes, len(result.dropped)) == (2, None, 1)
    assert torch.equal(
        result.state['roi_head.mask_head.conv_logits.bias'], state['roi_heads.mask_predictor.mask_fcn_logits.bias'][1:]
    )
    with pytest.raises(ValueError, match='--keep-unused is for 91 .* this file has 3'):
        tool.convert(tool.Source('weights.pth', state, False), True, 1e-5)


def test_names_of_older_torchvision(tool, mask):
    state = mask.state_dict()
    old = {}
    for key, value in state.items():
        if key.endswith('num_batches_tracked'):  # frozen norms have none
            continue
        key = key.replace('rpn.head.conv.0.0.', 'rpn.head.conv.')
        for i in range(4):
            key = key.replace(f'blocks.{i}.0.', f'blocks.{i}.')
            key = key.replace(f'mask_head.{i}.0.', f'mask_head.mask_fcn{i + 1}.')
        old[key] = value
    assert len(set(old) - set(state)) == 16 + 2 + 8
    fresh, converted = (tool.convert(tool.Source('x', one, False), False, 1e-5).state for one in (state, old))
    assert all(torch.equal(fresh[key], value) for key, value in converted.items() if 'num_batches' not in key)
    assert list(fresh) == list(converted)


@torch.no_grad()
def test_eps_of_the_norms_is_folded_into_their_weights(tool, faster):
    names = [key for key in faster.state_dict() if key.endswith('running_var')]
    state = {key: value * 1e-4 if key in names[::20] else value for key, value in faster.state_dict().items()}
    body = random_model_body(state, eps=0.0)
    image = torch.randn(1, 3, 64, 64)
    expected = list(body(image).values())
    folded, plain = (our_model(tool, FASTER, state, eps=eps).backbone(image) for eps in (0.0, 1e-5))
    for one, same, other in zip(expected, folded, plain):
        size = one.abs().max()
        assert (same - one).abs().max() < 1e-4 * size < (other - one).abs().max()
    state[names[0]] = torch.zeros(64)
    with pytest.raises(ValueError, match='bn1.running_var has a variance of 0'):
        tool.convert(tool.Source('x', state, False), False, 0.0)


def random_model_body(state, eps):
    """torchvision's ResNet of a detector with these weights, its norms with ``eps``."""
    model = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    model.load_state_dict(state)
    for module in model.backbone.body.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = eps
    return model.backbone.body


@pytest.mark.parametrize(
    'change, says',
    [
        (lambda state: {'roi_heads.keypoint_head.0.weight': torch.ones(1)}, 'is a Keypoint R-CNN'),
        (lambda state: {'roi_heads.box_head.0.0.weight': torch.ones(1)}, 'is a model of version 2'),
        (lambda state: {'backbone.body.0.0.weight': torch.ones(1)}, 'is a model on MobileNet'),
        (lambda state: {'head.classification_head.conv.0.weight': torch.ones(1)}, 'is a one-stage detector'),
        (lambda state: {'conv1.weight': torch.ones(1)}, "no detector of torchvision's .*conv1.weight"),
        (
            lambda state: dict(state, **{'backbone.body.layer3.6.conv1.weight': torch.ones(1)}),
            '1 unknown keys, such as backbone.body.layer3.6.conv1.weight',
        ),
        (
            lambda state: {key: value for key, value in state.items() if 'fc7' not in key},
            r'2 missing .* such as roi_head.bbox_head.shared_fcs.1.weight',
        ),
        (
            lambda state: dict(state, **{'roi_heads.box_predictor.bbox_pred.bias': torch.ones(80)}),
            r'bbox_pred.bias has the shape \(80,\), expected \(364,\)',
        ),
        (
            lambda state: dict(state, **{'rpn.head.cls_logits.bias': torch.ones(9)}),
            r'rpn.head.cls_logits.bias has the shape \(9,\), expected \(3,\)',
        ),
    ],
)
def test_other_models_are_refused(tool, faster, change, says):
    with pytest.raises(ValueError, match=f'checkpoint weights.pth: .*{says}'):
        tool.convert(tool.Source('weights.pth', change(faster.state_dict()), False), False, 1e-5)
