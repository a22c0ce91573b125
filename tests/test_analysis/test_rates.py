"""mmdet analyze lr: a learning rate that grows, and what is made of the losses."""

import json

import pytest

from mmdet.analysis import rates
from mmdet.analysis.rates import Curve, main
from mmdet.run.ending import run_main


def test_smoothed_and_lowest():
    own = [10.0**i for i in range(-6, 1)]
    curve = Curve(own, [5.0, 4, 3, 2, 1, 9, 80])
    smoothed = curve.smoothed()
    assert smoothed[0] == 5 and smoothed[1] == pytest.approx((0.9 * 5 + 4) / 1.9)
    assert curve.lowest() == 1e-2 and curve.suggested() == pytest.approx((1e-3, 1e-2 / 3))
    assert curve.diverged() and not Curve(own[:5], curve.losses[:5]).diverged()
    assert Curve(own[:2], [1.0, float('nan')]).diverged() and not Curve().diverged()


def test_command(tiny_config, tmp_path, capsys):
    out = tmp_path / 'new' / 'lr.png'
    words = ['--cfg-options', 'model.backbone.init_cfg=None', 'optim_wrapper.optimizer.lr=0.02']
    main([str(tiny_config), '--out', str(out), '--iterations', '20', '--lowest', '1e-5', '--highest', '0.1', *words])
    said = capsys.readouterr().out
    assert out.read_bytes()[:4] == b'\x89PNG' and 'The config has 0.02' in said and f'curve: {out}' in said
    numbers = json.loads((tmp_path / 'new' / 'lr.png.json').read_text())
    assert len(numbers['rates']) == len(numbers['losses']) == len(numbers['smoothed'])
    assert numbers['rates'][0] == pytest.approx(1e-5)
    factors = [b / a for a, b in zip(numbers['rates'], numbers['rates'][1:])]
    assert factors == pytest.approx([1e4 ** (1 / 19)] * len(factors))
    assert f'lr={numbers["suggested"][1]:.2g}' in said


def test_groups_keep_their_ratio_and_the_run_ends_where_it_diverges(tiny_config, monkeypatch):
    seen = []
    before = rates.GrowingRate.before_train_iter

    def look(self, runner, *args, **kwargs):
        before(self, runner, *args, **kwargs)
        seen.append(sorted({group['lr'] for group in runner.optim_wrapper.optimizer.param_groups}))

    monkeypatch.setattr(rates.GrowingRate, 'before_train_iter', look)
    cfg = rates.load_config(str(tiny_config))
    cfg.merge_from_dict(
        {
            'model.backbone.init_cfg': None,
            'optim_wrapper.paramwise_cfg': dict(custom_keys={'rpn_head': dict(lr_mult=0.1)}),
        }
    )
    curve = rates.find(cfg, 1e-4, 1e6, 20)
    assert 5 < len(curve.rates) < 20
    assert len(seen[0]) == 2 and seen[0][0] == pytest.approx(seen[0][1] / 10)
    assert seen[3][1] == pytest.approx(curve.rates[3])


def test_messages(tiny_config, capsys):
    with pytest.raises(SystemExit):
        rates.parse_args([str(tiny_config), '--lowest', '1', '--highest', '0.1'])
    assert '--lowest must be above 0 and below --highest, got 1 and 0.1' in capsys.readouterr().err
    assert run_main(lambda: main([str(tiny_config), '--cfg-options', 'optim_wrapper.optimizer.lr=0'])) == 1
    assert 'optim_wrapper.optimizer.lr: must be above 0, got 0' in capsys.readouterr().err
