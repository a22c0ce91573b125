"""Find a learning rate: train with one that grows from batch to batch, and see where the loss falls (Smith, WACV 2017).

mmdet analyze lr CONFIG

Suggested are rates from a tenth to a third of that at which the smoothed loss is lowest: above it the training is about
to diverge. One run has noise in it: look at the curve, and try another --seed. Rates are those of the config,
optim_wrapper.optimizer.lr. Nothing else is written.
"""

import json
import tempfile
from dataclasses import dataclass, field

import torch
from matplotlib.figure import Figure
from mmengine.hooks import Hook
from terminaltables import AsciiTable

from mmdet.config import check_config, load_config
from mmdet.engine import DetRunner
from mmdet.io.atomic import write_atomic
from mmdet.options import add_config, make_parser, number, whole
from mmdet.run.prepare import prepare

from .curves import save_figure

#: share of the smoothed loss that is from before
SMOOTH = 0.9
#: the run ends when the smoothed loss is so many times its least
DIVERGED = 3


@dataclass
class Curve:
    """Holds the losses of a training whose learning rate grows."""

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def smoothed(self) -> list[float]:
        """Return the exponential averages of the losses, without the pull of a beginning at 0."""
        average, found = 0.0, []
        for i, loss in enumerate(self.losses, 1):
            average = SMOOTH * average + (1 - SMOOTH) * loss
            found.append(average / (1 - SMOOTH**i))
        return found

    def diverged(self) -> bool:
        """Return whether the last smoothed loss is far above the least one, or no number."""
        smoothed = self.smoothed()
        return bool(smoothed) and not smoothed[-1] <= DIVERGED * min(smoothed)

    def lowest(self) -> float:
        """Return the rate at which the smoothed loss is lowest."""
        smoothed = self.smoothed()
        return self.rates[min(range(len(smoothed)), key=smoothed.__getitem__)]

    def suggested(self) -> tuple[float, float]:
        """Return the least and the greatest rate that are worth a try."""
        return self.lowest() / 10, self.lowest() / 3


class GrowingRate(Hook):
    """Sets the learning rate of each iteration, in the ratio that groups of parameters have, and notes the loss."""

    priority = 'VERY_HIGH'

    def __init__(self, rates: list[float], base: float) -> None:
        self.wanted, self.base, self.curve = rates, base, Curve()

    def before_train(self, runner) -> None:
        self.groups = [(group, group['lr'] / self.base) for group in runner.optim_wrapper.optimizer.param_groups]

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        for group, part in self.groups:
            group['lr'] = self.wanted[runner.iter] * part

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.curve.rates.append(self.wanted[runner.iter])
        self.curve.losses.append(float(torch.as_tensor(outputs['loss']).detach()))
        if self.curve.diverged():
            runner.train_loop.stop_training = True


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser)
    parser.add_argument('--lowest', type=number(0), default=1e-6, metavar='LR', help='(default: 1e-6)')
    parser.add_argument('--highest', type=number(0), default=1.0, metavar='LR', help='(default: 1)')
    parser.add_argument('--iterations', type=whole(20), default=100, metavar='N', help='(default: 100)')
    parser.add_argument('--seed', type=whole(0), default=0, help='(default: 0)')
    parser.add_argument('--out', default='lr.png', metavar='FILE', help='the curve; numbers go to FILE.json beside it')
    args = parser.parse_args(argv)
    if not 0 < args.lowest < args.highest:
        parser.error(f'--lowest must be above 0 and below --highest, got {args.lowest:g} and {args.highest:g}')
    return args


def find(cfg, lowest: float, highest: float, iterations: int, seed: int = 0) -> Curve:
    """Train a config with a rate that grows from ``lowest`` to ``highest`` by the same factor each iteration.

    Args:
        cfg: checked; changed in place. Its schedulers, validation and hooks are left out.
        iterations: at most; fewer where the loss diverges.

    Raises:
        ValueError: the optimizer has no learning rate of its own.
    """
    base = (cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('lr')
    if not base:
        raise ValueError(f'config {cfg.filename}, optim_wrapper.optimizer.lr: must be above 0, got {base}')
    cfg.merge_from_dict(dict(randomness=dict(seed=seed)))
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations + 1)
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator', 'test_cfg', 'test_dataloader', 'test_evaluator'):
        cfg[key] = None
    cfg.param_scheduler = cfg.custom_hooks = cfg.visualizer = None
    cfg.default_hooks = dict(checkpoint=None, logger=None, cbn=dict(type='CBNHook'))
    cfg.resume = False
    with tempfile.TemporaryDirectory() as cfg.work_dir:
        prepare(cfg, 'none')
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook['type'] != 'ProgressHook']
        runner = DetRunner.from_cfg(cfg)
        step = (highest / lowest) ** (1 / (iterations - 1))
        hook = GrowingRate([lowest * step**i for i in range(iterations)], base)
        runner.register_hook(hook)
        try:
            runner.train()
        except FloatingPointError:
            pass  # the rate was too high, which is what was asked
    return hook.curve


def draw(curve: Curve, path: str) -> None:
    """Draw losses over rates, with the suggested ones."""
    figure = Figure(figsize=(7, 4.2), layout='constrained')
    axes = figure.subplots()
    smoothed = curve.smoothed()
    axes.plot(curve.rates, curve.losses, color='0.8', label='loss')
    axes.plot(curve.rates, smoothed, color='C0', label='smoothed')
    least, most = curve.suggested()
    axes.axvspan(least, most, color='C2', alpha=0.2, label=f'suggested: {least:.2g} to {most:.2g}')
    axes.set_xscale('log')
    axes.set_ylim(0.9 * min(smoothed), 1.1 * max(smoothed[0], DIVERGED / 2 * min(smoothed)))
    axes.set_xlabel('learning rate')
    axes.set_ylabel('loss')
    axes.legend(frameon=False)
    save_figure(figure, path)


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, ('train',))
    base = cfg.optim_wrapper.optimizer.lr
    curve = find(cfg, args.lowest, args.highest, args.iterations, args.seed)
    smoothed = curve.smoothed()
    rows = [['learning rate', 'loss, smoothed']]
    rows += [
        [f'{curve.rates[i]:.2g}', f'{smoothed[i]:.4g}'] for i in range(0, len(smoothed), max(1, len(smoothed) // 12))
    ]
    print(AsciiTable(rows).table)
    draw(curve, args.out)
    least, most = curve.suggested()
    numbers = dict(vars(curve), smoothed=smoothed, lowest=curve.lowest(), suggested=[least, most], seed=args.seed)
    write_atomic(json.dumps(numbers).encode(), f'{args.out}.json')
    ended = 'the loss diverged' if curve.diverged() else f'the loss had not diverged at {curve.rates[-1]:.2g}'
    print(f'{len(smoothed)} iterations; {ended}. The config has {base:g}')
    print(f'lowest at {curve.lowest():.2g}; to try: {least:.2g} to {most:.2g}')
    print(f'--cfg-options optim_wrapper.optimizer.lr={most:.2g}')
    print(f'curve: {args.out}')
