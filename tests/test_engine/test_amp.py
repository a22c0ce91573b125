"""Mixed precision: its dtype, its state in a checkpoint, and detectors that train in bfloat16 as in float32."""

import pytest
import torch
from conftest import ROOT, load_tool
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmdet.config import load_config
from mmdet.engine import amp, amp_dtype
from mmdet.ops.norm import CBN

NORMS = {
    'none': None,
    'BN': dict(type='BN'),
    'GN': dict(type='GN', num_groups=32),
    'CBN': dict(type='CBN'),
    'CBN+': dict(type='CBN+'),
    'CBN+GN': dict(type='CBN+GN', num_groups=32),
}


def wrapper(model, **settings):
    init_default_scope('mmdet')
    return build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9), **settings))


def test_dtype_is_the_devices_or_the_one_asked_for(monkeypatch):
    for cuda, own in ((False, torch.bfloat16), (True, torch.float16)):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
        assert amp_dtype(None) == own and amp_dtype('bfloat16') == amp_dtype(torch.bfloat16) == torch.bfloat16
    assert amp_dtype('float16') == torch.float16
    with pytest.raises(ValueError, match="must be 'float16' or 'bfloat16', got 'int8'"):
        amp_dtype('int8')


def test_float16_needs_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match=r'float16 .*needs CUDA.*--amp bf16'):
        wrapper(nn.Linear(2, 2), type='AmpOptimWrapper', dtype='float16')


@pytest.mark.parametrize('supported', [True, False])
def test_a_processor_without_bfloat16_is_told(supported, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: supported)
    said = []
    monkeypatch.setattr(amp, 'print_log', lambda text, *rest: said.append(text))
    wrapper(nn.Linear(2, 2), type='AmpOptimWrapper', dtype='bfloat16')
    assert len(said) == (not supported) and all('bfloat16 is not for this CPU' in text for text in said)


@pytest.mark.parametrize('loss_scale', ['dynamic', 512.0])
def test_bfloat16_scales_no_loss(loss_scale):
    """Weights move by gradients as they are, also with a clip, an accumulation and a group of its own."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    before = model.weight.detach().clone()
    optim = wrapper(
        model,
        type='AmpOptimWrapper',
        dtype='bfloat16',
        loss_scale=loss_scale,
        accumulative_counts=2,
        clip_grad=dict(max_norm=0.5),
        paramwise_cfg=dict(custom_keys={'bias': dict(lr_mult=0)}),
    )
    bias = model.bias.detach().clone()
    for _ in range(2):
        with optim.optim_context(model):
            output = model(torch.ones(2, 4))
            assert output.dtype == torch.bfloat16
        optim.update_params(output.float().sum())
    assert torch.equal(model.bias, bias)
    moved = before - model.weight.detach()
    assert moved.norm() <= 0.01 * 0.5 + 1e-6 and moved.norm() > 0.004


@pytest.mark.parametrize('saved', ['OptimWrapper', 'bfloat16', 'float16'])
@pytest.mark.parametrize('resumed', ['OptimWrapper', 'bfloat16', 'float16'])
def test_state_of_every_precision_resumes_every_other(saved, resumed, monkeypatch):
    # The scaler of float16 is there without CUDA too, if mmengine is told that there is one.
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True)
    monkeypatch.setattr('torch.cuda.amp.common.amp_definitely_not_available', lambda: False)

    def make(kind):
        return wrapper(
            nn.Linear(2, 2), **(dict(type=kind) if kind == 'OptimWrapper' else dict(type='AmpOptimWrapper', dtype=kind))
        )

    first, second = make(saved), make(resumed)
    with torch.autocast('cpu', enabled=False):
        for parameter in first.optimizer.param_groups[0]['params']:
            parameter.grad = torch.ones_like(parameter)
        first.optimizer.step()
    if saved == 'float16':
        first.loss_scaler.load_state_dict(dict(first.loss_scaler.state_dict(), scale=8.0))
    second.load_state_dict(first.state_dict())
    assert (
        all(
            torch.equal(state['momentum_buffer'], torch.ones_like(state['momentum_buffer']))
            for state in second.optimizer.state.values()
        )
        and len(second.optimizer.state) == 2
    )
    if resumed == 'float16':
        assert second.loss_scaler.state_dict()['scale'] == (8 if saved == 'float16' else 2**16)


def train(kind, norm, amp, steps):
    """Losses of each step, the model, and what it detects then."""
    init_default_scope('mmdet')
    benchmark = load_tool('tools/benchmarks/train_step.py')
    cfg = load_config(str(ROOT / 'configs/shapes/mask-rcnn_r18_fpn.py'))
    cfg.model.type = kind
    if kind == 'FasterRCNN':
        for part in ('mask_head', 'mask_roi_extractor'):
            del cfg.model.roi_head[part]
    model, _ = benchmark.build(cfg, NORMS[norm], 'cpu')
    batch = benchmark.make_batch((64, 64), 2, 3, kind == 'MaskRCNN')
    optim = wrapper(model, **(dict(type='AmpOptimWrapper') if amp else {}))
    values = []
    for _ in range(steps):
        torch.manual_seed(0)  # the samplers draw
        with optim.optim_context(model):
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
        flat = [value for part in losses.values() for value in (part if isinstance(part, list) else [part])]
        assert {value.dtype for value in flat} == {torch.float32}
        total, logs = model.parse_losses(losses)
        optim.update_params(total)
        values.append({name: value.item() for name, value in logs.items()})
    model.eval()
    with torch.no_grad(), optim.optim_context(model):
        found = model(**model.data_preprocessor(batch, False), mode='predict')[0].pred_instances
    return values, model, found


# CBN+ and CBN+GN have all the kernels of the others
@pytest.mark.parametrize(
    'kind, norm',
    [
        pytest.param('MaskRCNN', norm, marks=() if norm in ('CBN+', 'CBN+GN') else pytest.mark.slow, id=norm)
        for norm in NORMS
    ]
    + [pytest.param('FasterRCNN', 'CBN+', marks=pytest.mark.slow)],
)
def test_detectors_train_in_bfloat16(kind, norm, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    exact, _, _ = train(kind, norm, False, 3)
    found, model, detections = train(kind, norm, True, 3)
    # Proposals, which are ranked, differ: the second stage's losses are of other regions.
    limits = dict(loss_rpn_cls=0.005, loss_rpn_bbox=0.01, loss=0.05)
    assert {name: abs(found[0][name] / exact[0][name] - 1) for name in limits} == {
        name: pytest.approx(0, abs=limit) for name, limit in limits.items()
    }
    assert [step['loss'] for step in found] == pytest.approx([step['loss'] for step in exact], rel=0.2)
    assert {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()} == {torch.float32}
    windows = [layer.window_state() for layer in model.modules() if isinstance(layer, CBN)]
    tensors = [t for state in windows for t in flatten(state) if t.is_floating_point()]
    assert bool(tensors) == norm.startswith('CBN') and all(t.dtype == torch.float32 for t in tensors)
    assert detections.bboxes.dtype == detections.scores.dtype == torch.float32 and len(detections)


def flatten(state):
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else []
    return [tensor for part in parts for tensor in flatten(part)]
