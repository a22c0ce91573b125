"""Checkpoints with anything in them: used, or refused with the file; nothing is run."""

import copy
import re

import pytest
import torch
from conftest import load_tool
from fuzzing import EXAMPLES, change, changes, odd_values, run
from mmengine.config import Config

from mmdet.apis import DetInferencer
from mmdet.config import load_config
from mmdet.engine import DetRunner
from mmdet.io.resuming import check_resumable
from mmdet.run.prepare import prepare

ODD = odd_values(
    [
        'model = dict(type="os.system", command="false")',
        'import os',
        (),
        torch.zeros(0),
        torch.zeros(3),
        torch.ones(2, 2),
        torch.tensor(float('nan')),
        dict(a=1),
        torch.zeros(4, dtype=torch.int64),
        b'x',
        {1: 2},
        [0, 0, 0],
        [(300, 0, 0)],
    ],
    largest=2**70,
)


@pytest.fixture(scope='module')
def trained(tiny_config, tmp_path_factory):
    """A config, the folder of its training, and the checkpoint's contents."""
    folder = tmp_path_factory.mktemp('trained')
    config = folder / 'config.py'
    config.write_text(
        f"_base_ = '{tiny_config}'\n"
        "model = dict(neck=dict(norm_cfg=dict(_delete_=True, type='CBN+GN', num_groups=4)))\n"
        'train_cfg = dict(max_epochs=1, val_interval=9)\n'
        'default_hooks = dict(logger=dict(interval=99))\n'
    )
    load_tool('tools/train.py').main([str(config), '--work-dir', str(folder)])
    return str(config), folder, torch.load(folder / 'epoch_1.pth', weights_only=False)


def few(checkpoint):
    """The same with few weights, windows and momenta to choose from; a function that adds the others."""
    small = {key: value for key, value in checkpoint.items() if key not in ('state_dict', 'optimizer', 'cbn_window')}
    weights = dict(list(checkpoint['state_dict'].items())[:3])
    state = checkpoint['optimizer']
    momenta = dict(list(state['state'].items())[:2])
    name, window = next(iter(checkpoint['cbn_window'][0].items()))
    small = dict(small, state_dict=weights, optimizer=dict(state, state=momenta), cbn_window=[{name: window}])

    def whole(changed):
        full = copy.copy(changed)
        for keys in (('state_dict',), ('optimizer', 'state'), ('cbn_window', 0)):
            node, rest, start = full, checkpoint, small
            try:
                for key in keys[:-1]:
                    node, rest, start = node[key], rest[key], start[key]
                own = node[keys[-1]]
                if isinstance(own, dict):
                    left = {key: value for key, value in rest[keys[-1]].items() if key not in start[keys[-1]]}
                    node[keys[-1]] = {**own, **left}
            except (KeyError, TypeError, IndexError):
                pass
        return full

    return small, whole


@pytest.fixture(scope='module')
def resume(trained, tmp_path_factory):
    """Resume from a checkpoint with these contents and take a step; returns its path, the error or None, the runner."""
    path = tmp_path_factory.mktemp('resumed') / 'x.pth'
    cfg = load_config(trained[0], {}, str(path.parent))
    cfg.resume, cfg.load_from = True, str(path)
    prepare(cfg, 'none')
    runner = DetRunner.from_cfg(Config(cfg.to_dict()))
    runner.train_loop
    schedulers, hub = runner.param_schedulers, vars(runner.message_hub)
    at_first = {key: copy.copy(value) for key, value in hub.items() if isinstance(value, dict)}

    def resume(checkpoint):
        torch.save(checkpoint, path)
        # As in a new process: nothing of the checkpoint before.
        hub.update({key: copy.copy(value) for key, value in at_first.items()})
        runner.optim_wrapper = runner.build_optim_wrapper(copy.deepcopy(runner.cfg.optim_wrapper))
        runner.param_schedulers = runner.build_param_scheduler(copy.deepcopy(schedulers))
        try:
            runner.resume(str(path))
            runner.call_hook('before_train')
        except (ValueError, KeyError) as error:
            return path, error, runner
        for value in runner.model.parameters():
            value.grad = torch.zeros_like(value)
        runner.optim_wrapper.optimizer.step()
        for scheduler in runner.param_schedulers:
            scheduler.step()
        return path, None, runner

    return resume


@EXAMPLES
def test_resumed(trained, resume, examples):
    small, whole = few(trained[2])
    good = []

    def use(changed):
        path, error, _ = resume(whole(changed))
        assert error is None or f'checkpoint {path}' in str(error), error
        good.append(error is None)

    use(small)
    assert good[0]
    run(examples, changes(small, ODD, most=2), lambda drawn: use(change(small, drawn)))
    assert sum(good) > examples / 10  # which are drawn depends on the sources, of which hypothesis takes constants


ODD_WEIGHTS = [
    torch.zeros(8).to_sparse(),
    torch.zeros(8, device='meta'),
    torch.zeros(8, dtype=torch.complex64),
    torch.zeros(8, dtype=torch.bool),
    torch.full((8,), float('nan')),
    torch.quantize_per_tensor(torch.zeros(8), 1.0, 0, torch.qint8),
]


@pytest.mark.parametrize('weight', ODD_WEIGHTS, ids=lambda weight: f'{weight.dtype}{weight.layout}{weight.device}')
def test_weights_that_torch_would_leave_out(trained, resume, weight, tmp_path):
    changed = dict(trained[2], state_dict={**trained[2]['state_dict'], 'backbone.bn1.weight': weight})
    path, error, _ = resume(changed)
    assert f'checkpoint {path}: ' in str(error) and 'state_dict.backbone.bn1.weight' in str(error)
    with pytest.raises(ValueError, match='checkpoint .*x.pth: .*state_dict.backbone.bn1.weight'):
        DetInferencer(weights=str(path), device='cpu')


@pytest.mark.parametrize('optimizer', ['NAdam', 'ASGD', 'Adafactor', 'Adam', 'RMSprop', 'Rprop', 'Adagrad', 'Adamax'])
def test_every_optimizers_own_state_is_taken(optimizer):
    layer = torch.nn.Linear(3, 4)
    own = getattr(torch.optim, optimizer)(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    own.step()
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    check_resumable(
        dict(meta=dict(epoch=1, iter=1), message_hub=hub, optimizer=own.state_dict()),
        dict(message_hub=hub, parameters=list(layer.parameters()), optimizer=dict(own.state_dict(), state={})),
    )


def test_without_an_optimizer_it_says_so(trained, resume, monkeypatch):
    said = []
    checkpoint = {key: value for key, value in trained[2].items() if key not in ('optimizer', 'param_schedulers')}
    runner = resume(trained[2])[2]
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    path, error, _ = resume(checkpoint)
    assert error is None and f'checkpoint {path}: holds no optimizer and no param_schedulers' in said[0]


@pytest.mark.parametrize(
    'optimizer, says',
    [
        (
            torch.optim.AdamW,
            'its optimizer is another than that of optim_wrapper: optimizer.param_groups.0 has no momentum',
        ),
        (lambda values: torch.optim.SGD(values[:-1], 0.1, 0.9), 'must hold [0-9]+ parameters, each once, got [0-9]+'),
        (
            lambda values: torch.optim.SGD([dict(params=values[:3]), dict(params=values[3:])], 0.1, 0.9),
            'loaded state dict has a different number of parameter groups',
        ),
    ],
)
def test_another_optimizer(trained, resume, optimizer, says):
    runner = resume(trained[2])[2]
    state = optimizer(list(runner.model.parameters())).state_dict()
    path, error, _ = resume(dict(trained[2], optimizer=state))
    assert re.search(f'checkpoint {path}: cannot be resumed from: .*{says}', str(error)), error


@EXAMPLES
def test_for_inference(trained, examples, tmp_path):
    _, _, checkpoint = trained
    small, whole = few(checkpoint)
    small = {key: small[key] for key in ('state_dict', 'meta')}
    good = []

    def use(changed):
        torch.save(whole(changed), tmp_path / 'x.pth')
        try:
            DetInferencer(weights=str(tmp_path / 'x.pth'), device='cpu')
        except (ValueError, KeyError) as error:
            assert f'checkpoint {tmp_path}/x.pth' in str(error), error
            return
        good.append(1)

    use(small)
    assert good
    run(examples, changes(small, ODD, most=2), lambda drawn: use(change(small, drawn)))


def test_what_a_hook_does_not_want_resumed(trained, resume):
    checkpoint = copy.deepcopy(trained[2])
    keys = checkpoint['message_hub']['resumed_keys']
    keys['own/number'] = False  # update_scalar('own/number', 1, resumed=False): not saved, but for this
    assert resume(checkpoint)[1] is None
    for key, value in (('own/number', True), ('loop_stage', False)):
        path, error, _ = resume(
            dict(checkpoint, message_hub=dict(checkpoint['message_hub'], resumed_keys={**keys, key: value}))
        )
        assert f'checkpoint {path}: ' in str(error) and f'resumed_keys.{key} must be {not value}' in str(error)
