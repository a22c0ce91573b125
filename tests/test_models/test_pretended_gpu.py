"""Detectors on a GPU that is not there: one device, the CPU's losses, few reads back to the host."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn
from torch.nn import functional as F

from mmdet.models.roi_heads import single_level_roi_extractor
from mmdet.ops import conv, roi_align, sparse_grad
from mmdet.ops.norm import conv_norm, frozen
from mmdet.registry import MODELS, build_norm_layer
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks

if not hasattr(torch.utils.backend_registration, '_setup_privateuseone_for_python_backend'):
    pytest.skip('needs torch 2.10', allow_module_level=True)

from reference.pretend_gpu import GPU, OnGpu, Pretend, move

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'cbn'
# The CPU takes the slopes' products in bfloat16 where it can.
CBN = dict(type='CBN', buffer_num=3, slope_dtype='float32')
EVERYWHERE = dict(
    syncbn=dict(type='SyncBN'),
    gn=dict(type='GN', num_groups=4),
    cbn=CBN,
    cbnplus=dict(CBN, type='CBN+', buffer_num=15),
    cbngn=dict(CBN, type='CBN+GN', num_groups=4, buffer_num=15),
)


@pytest.fixture(autouse=True)
def scope(monkeypatch):
    init_default_scope('mmdet')
    # The CPU's own ways round otherwise; here it takes the GPU's.
    for module in (frozen, roi_align, sparse_grad, single_level_roi_extractor):
        monkeypatch.setattr(module, 'unobserved', lambda *args: False)
    monkeypatch.setattr(conv, 'REORDERS', False)


def narrow(name, everywhere=None):
    """The model of a published config, with few channels and from the first step on with its window."""
    cfg = Config.fromfile(str(CONFIGS / f'{name}.py')).model
    heads = cfg.roi_head
    cfg.backbone.update(depth=18, base_channels=8, init_cfg=None)
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    heads.bbox_roi_extractor.out_channels = 16
    heads.bbox_head.update(in_channels=16, conv_out_channels=16, fc_out_channels=32, num_classes=3)
    parts = [cfg.neck, heads.bbox_head]
    if 'mask_head' in heads:
        heads.mask_roi_extractor.out_channels = 16
        heads.mask_head.update(num_convs=2, in_channels=16, conv_out_channels=16, num_classes=3)
        parts.append(heads.mask_head)
    if everywhere:
        cfg.backbone.update(frozen_stages=-1, norm_eval=False)
        parts.append(cfg.backbone)
    for part in parts:
        norm = dict(everywhere or part.get('norm_cfg') or {})
        if norm.get('type') in ('GN', 'CBN+GN'):
            norm.update(num_groups=4)
        if 'CBN' in norm.get('type', ''):
            norm.update(burnin=0, by_epoch=False, slope_dtype='float32')
        part.norm_cfg = norm or None
    cfg.train_cfg.rpn_proposal.update(nms_pre=200, max_per_img=60)
    cfg.train_cfg.rcnn.sampler.num = 32
    cfg.test_cfg.rpn.update(nms_pre=200, max_per_img=60)
    cfg.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    return model


def image(rng, number, height, width, kind=BitmapMasks):
    """An image with ``number`` objects and an ignored region."""
    corners = rng.uniform(0, 0.6, (number + 1, 2)) * [width, height]
    boxes = torch.tensor(np.concatenate([corners, corners + rng.uniform(10, 30, corners.shape)], 1)).float()
    objects, ignored = boxes[:number], boxes[number:]
    masks = [[box[[0, 1, 2, 1, 0, 3]].double().numpy()] for box in objects]
    masks = PolygonMasks(masks, height, width)
    shape = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (height, width))
    sample = DetDataSample(metainfo=dict(shape, scale_factor=(0.5, 2.0)))
    sample.gt_instances = InstanceData(
        bboxes=objects,
        labels=torch.tensor(rng.randint(0, 3, number)).long(),
        masks=masks if kind is PolygonMasks else masks.to_bitmap(),
    )
    sample.ignored_instances = InstanceData(bboxes=ignored)
    return torch.tensor(rng.randint(0, 256, (3, height, width)), dtype=torch.uint8), sample


def batch(seed, numbers, **options):
    """Images of several sizes with so many objects."""
    rng = np.random.RandomState(seed)
    sizes = [(64, 96), (80, 64), (50, 70)]
    items = [image(rng, number, *sizes[i], **options) for i, number in enumerate(numbers)]
    return dict(zip(('inputs', 'data_samples'), map(list, zip(*items))))


def train(model, batches):
    """Losses of a step on each batch, and what was seen."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=35))
    torch.manual_seed(1)
    model.train()
    losses = []
    with Pretend() as seen:
        for data in batches:
            losses.append(model.train_step(data, wrapper))
    return [{name: loss.tolist() for name, loss in step.items()} for step in losses], seen


def predict(model, data):
    """Detections, and what was seen."""
    model.eval()
    with Pretend() as seen, torch.no_grad():
        found = model.test_step(data)
    return [sample.pred_instances for sample in found], seen


def on_cpu(t):
    return getattr(t, 'elem', t)


CASES = [
    pytest.param(path.stem, None, marks=[pytest.mark.slow] if path.stem.startswith('faster') else [])
    for path in sorted(CONFIGS.glob('*_rcnn_*.py'))
]
CASES += [('mask_rcnn_r50_fpn_1x', norm) for norm in EVERYWHERE]


@pytest.mark.parametrize('name,everywhere', CASES)
def test_trains_and_predicts_as_on_the_cpu(monkeypatch, name, everywhere):
    """Losses of four steps within 1e-5, detections within 1e-4; the norms read nothing back.

    With a smooth activation: where a ReLU's input is nought but for rounding, the last bit of a mean opens or shuts it
    and the gradient jumps. Weights that are moved by their last bit then change the losses of the fourth step by 1e-5
    to 1e-2 on the CPU alone.
    """
    monkeypatch.setattr(F, 'relu', lambda x, inplace=False: F.softplus(x, 8.0))
    monkeypatch.setattr(nn.ReLU, 'forward', lambda self, x: F.softplus(x, 8.0))
    numbers = [(2, 0), (1,), (0,), (3, 1)]
    answers = []
    for place in (lambda model: model, move):
        model = place(narrow(name, everywhere and EVERYWHERE[everywhere]))
        losses, seen = train(model, [batch(i, number) for i, number in enumerate(numbers)])
        found, seen_later = predict(model, batch(9, (2, 0)))
        answers.append((losses, found))
    for step, (losses, expected) in enumerate(zip(answers[1][0], answers[0][0])):
        assert losses == pytest.approx(expected, rel=1e-5, abs=1e-9), step
    for found, expected in zip(answers[1][1], answers[0][1]):
        assert isinstance(found.bboxes, OnGpu) and len(found) == len(expected) == 10
        for key, answer in found.items():
            if not answer.dtype.is_floating_point:
                assert (on_cpu(answer) != expected[key]).float().mean() < 1e-3, key
            else:
                torch.testing.assert_close(on_cpu(answer), expected[key], rtol=1e-4, atol=1e-4)
    assert sum(seen.operations.values()) > 1000
    for reads in (seen.reads, seen_later.reads):
        assert reads and not [place for _, place in reads if place.startswith('ops/norm')]


@pytest.mark.parametrize('kind', [BitmapMasks, PolygonMasks])
@pytest.mark.parametrize('numbers', [(3,), (0,), (2, 0), (0, 0), (3, 1, 2)])
def test_reads_back(kind, numbers):
    """With an image 9 in a training step, of which one is the clipped gradient's norm, and 7 in a prediction."""
    model = move(narrow('mask_rcnn_r50_fpn_cbnplus_1x'))
    _, seen = train(model, [batch(0, numbers, kind=kind)])
    assert sum(seen.reads.values()) <= 5 + 4 * len(numbers), seen.reads
    _, seen = predict(model, batch(1, numbers))
    assert sum(seen.reads.values()) <= 2 + 5 * len(numbers), seen.reads


# -- the pretended GPU itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'read,times',
    [
        (lambda t: t.sum().item(), 1),
        (lambda t: float(t[0]), 1),
        (lambda t: bool((t > 0).all()), 1),
        (lambda t: t.tolist(), 1),
        (lambda t: t.cpu(), 1),
        (lambda t: t.to('cpu', non_blocking=True), 0),
        (lambda t: torch.zeros(3).copy_(t), 1),
        (lambda t: t.nonzero(), 1),
        (lambda t: t[t > 1], 1),
        (lambda t: t[(t > 1), None], 1),
        (lambda t: t[t.long().clamp(max=2)], 0),
        (lambda t: t.masked_select(t > 1), 1),
        (lambda t: t.unique(), 1),
        (lambda t: t.unique_consecutive(), 1),
        (lambda t: torch.equal(t, t), 1),
        (lambda t: t.long().bincount(), 2),
        (lambda t: t.sort().values, 0),
        (lambda t: torch.where(t > 1, t, 0), 0),
        (lambda t: t.__setitem__(t > 1, 0), 0),
        (lambda t: t.__setitem__(t > 1, t.sum()), 1),
        (lambda t: t.__setitem__(t > 1, t[1:] + 1), 1),
        (lambda t: t.masked_fill(t > 1, 0), 0),
        (lambda t: t.repeat_interleave(t.long()), 1),
        (lambda t: t.repeat_interleave(t.long(), output_size=6), 0),
        (lambda t: t.new_tensor([1, 2]), 0),
        (lambda t: t.to(t.device), 0),
    ],
)
def test_what_is_a_read(read, times):
    with Pretend() as seen:
        t = torch.tensor([1.0, 2, 3]).to(GPU)
        read(t)
    assert sum(seen.reads.values()) == times, seen.reads
    assert sum(seen.writes.values()) >= 1


def test_devices_do_not_mix():
    with Pretend() as seen:
        there, here = torch.arange(3.0, device=GPU), torch.arange(3.0)
        for mixed in (
            lambda: there + here,
            lambda: here.add_(there),
            lambda: torch.cat([there, here]),
            lambda: here[there.long()],
            lambda: there.index_select(0, here.long()),
        ):
            with pytest.raises(RuntimeError, match='one device'):
                mixed()
        assert there.is_cuda and (there + here[1])[here.long()].is_cuda  # numbers and indices may be here
        assert there.to('cpu').device.type == 'cpu'
    assert sum(seen.reads.values()) == sum(seen.writes.values()) == 1


def test_changes_in_place_and_views():
    with Pretend():
        x = torch.zeros(2, 3, device=GPU)
        row = x[1]
        row.add_(1)
        x.view(-1)[0] = 5
        assert row.unsqueeze_(0) is row and row.shape == (1, 3) and x.mul_(2) is x
        assert x.tolist() == [[10, 0, 0], [2, 2, 2]] and row.tolist() == [[2, 2, 2]]
        weight = nn.Parameter(torch.ones(3, device=GPU))
        (x @ weight).sum().backward()
        assert weight.grad.is_cuda and weight.grad.tolist() == [12, 2, 2]


@pytest.mark.parametrize(
    'setting',
    [
        dict(type='CBN'),
        dict(type='CBN', compensation='none'),
        dict(type='CBN+'),
        dict(type='CBN', compensation='none', pool='exponential'),
    ],
    ids=str,
)
@pytest.mark.parametrize('when', [0, 2])
def test_a_batch_that_overflows_stays_out_of_the_window(setting, when):
    """Without asking the device: on a CPU the layer looks, and leaves the batch out."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3), build_norm_layer(setting, 4)[1]
    conv, norm = move(nn.ModuleList([conv, norm]))
    for i in range(12):
        x = torch.randn(2, 3, 7, 7)
        if i == when:
            x[0, 1, 3, 3] = float('inf')
        with Pretend() as seen:
            out = conv_norm(conv, norm, x.to(GPU))
            out.sum().backward()
        assert not seen.reads
        state = [norm.running_mean, norm.running_var, *(t for entry in norm.window.entries for t in entry[1:5])]
        assert all(t.elem.isfinite().all() for t in state if t is not None)
        assert out.elem.isfinite().all() or i == when
    plain = F.batch_norm(conv(x.to(GPU)), None, None, training=True)
    assert (out - plain).abs().max().elem < 1  # it has been forgotten
