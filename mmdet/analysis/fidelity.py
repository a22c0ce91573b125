"""How far CBN's compensated statistics are from the true ones, layer by layer and lag by lag.

    mmdet analyze fidelity CONFIG [CHECKPOINT] [--iters 40] [--lags 3] [--out-dir DIR]

Trains for some iterations and keeps each CBN layer's inputs of the last ones. The truth of a lag is the variance of
the kept input's output under today's weights; the estimates are what the layer would have carried there. Errors are
those of the standard deviation, |estimate - truth| / truth, mean over channels. Writes fidelity.md, fidelity.json and
fidelity.png.
"""

import json
import statistics
from collections import defaultdict, deque
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdet.config import check_config, load_config
from mmdet.engine.hooks import cbn_layers
from mmdet.io.atomic import write_atomic
from mmdet.io.checkpoint import check_checkpoint_file
from mmdet.ops.norm.algebra import Entry, carry, nonzero, row_dot
from mmdet.ops.norm.conv_stats import mean_patch, variance_gradient, weight_matrix
from mmdet.ops.norm.kernels import batch_stats
from mmdet.options import add_config, make_parser, whole
from mmdet.run.prepare import prepare

#: estimate: compensation, sampling stride, dtype of the slopes' products (None: as the layer would)
ESTIMATES = {
    'none': ('none', 1, None),
    'taylor (paper)': ('taylor', 1, None),
    'secant': ('secant', 1, None),
    'secant, float32 slopes': ('secant', 1, torch.float32),
    'secant, sample_stride=2': ('secant', 2, None),
    'secant, sample_stride=4': ('secant', 4, None),
}


class Enough(Exception):
    """Ends the training once everything is measured."""


def entries_of(conv, x, weight):
    """For each estimate the entry that the batch ``x`` leaves under the weights it met."""
    y = torch.func.functional_call(conv, dict(weight=weight), (x,))
    (mean, var), matrix = batch_stats(y), weight_matrix(conv, weight)
    patch = mean_patch(conv, x, y.shape)
    own = mean if conv.bias is None else mean - conv.bias
    entries = {}
    for name, (_, stride, dtype) in ESTIMATES.items():
        slope, _ = variance_gradient(conv, x, y, matrix, mean, var, stride, dtype)
        entries[name] = Entry(1.0, own, var, patch, slope, nonzero(row_dot(slope, matrix)))
    return entries


class FidelityHook(Hook):
    """Keeps inputs of CBN layers and measures in the last iterations.

    Args:
        iters: iterations to train.
        lags: earlier batches to compare with.
        measured: so many of the last iterations are measured.
    """

    priority = 'VERY_LOW'

    def __init__(self, iters, lags, measured):
        self.iters, self.lags, self.measured = iters, lags, measured
        self.errors = defaultdict(lambda: defaultdict(list))  # (layer, lag) -> estimate -> values
        self.kept = defaultdict(lambda: deque(maxlen=lags + 1))
        self.convs = {}

    def before_train(self, runner):
        layers = cbn_layers(runner.model)
        if not layers:
            raise ValueError(
                "the config's model has no CBN layer: set norm_cfg=dict(type='CBN', buffer_num=3, ...), see configs/cbn"
            )
        for name, layer in layers.items():
            layer.register_forward_pre_hook(lambda layer, args, name=name: self._keep(name, layer, args))

    def _keep(self, name, layer, args):
        if layer.training and torch.is_grad_enabled() and len(args) == 3 and len(args[0]):
            _, x, conv = args
            self.convs[name] = conv
            self.kept[name].append((self.now, x.detach(), conv.weight.detach().clone()))

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.now = runner.iter

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        # The optimizer has stepped: what was just seen has lag 1 for the iteration to come.
        if runner.iter + 1 > self.iters - self.measured:
            for name, kept in self.kept.items():
                conv = self.convs[name]
                matrix = weight_matrix(conv, conv.weight)
                for when, x, weight in kept:
                    lag = runner.iter + 1 - when
                    if 1 <= lag <= self.lags:
                        self._measure(name, lag, conv, x, weight, matrix)
        if runner.iter + 1 >= self.iters:
            raise Enough

    def _measure(self, name, lag, conv, x, weight, matrix):
        truth = batch_stats(conv(x))[1].sqrt()
        alive = truth > 1e-4 * truth.max()
        for estimate, entry in entries_of(conv, x, weight).items():
            var = carry([entry], matrix, entry.mean, entry.var, ESTIMATES[estimate][0]).vars[0]
            error = ((var.sqrt() - truth).abs() / truth)[alive].mean()
            self.errors[name, lag][estimate].append(error.item())


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def summarize(errors, lags):
    """``layers``: layer -> lag -> estimate -> error; ``mean``, ``median`` over layers: lag -> estimate."""
    names = list(dict.fromkeys(name for name, _ in errors))
    layers = {
        name: {
            lag: {estimate: mean(values) for estimate, values in errors[name, lag].items()}
            for lag in lags
            if (name, lag) in errors
        }
        for name in names
    }
    found = {lag: [layer[lag] for layer in layers.values() if lag in layer] for lag in lags}
    return dict(
        layers=layers,
        **{
            kind: {
                lag: {estimate: over(layer[estimate] for layer in found[lag]) for estimate in ESTIMATES} for lag in lags
            }
            for kind, over in (('mean', mean), ('median', statistics.median))
        },
    )


def table(summary, lags):
    """Markdown: over all layers by lag, then each layer at the last lag; errors in percent."""

    def rows(label, items):
        yield f'| {label} | ' + ' | '.join(ESTIMATES) + ' |'
        yield '|---' * (len(ESTIMATES) + 1) + '|'
        for key, values in items:
            yield f'| {key} | ' + ' | '.join(f'{100 * values[estimate]:.4f}' for estimate in ESTIMATES) + ' |'

    last = lags[-1]
    layers = [(name, layer[last]) for name, layer in summary['layers'].items() if last in layer]
    overall = [(f'{kind}, lag {lag}', summary[kind][lag]) for kind in ('mean', 'median') for lag in lags]
    return '\n'.join(
        [
            'Error of the standard deviation in percent, mean over channels and iterations; over layers:',
            '',
            *rows('', overall),
            '',
            f'By layer, lag {last}:',
            '',
            *rows('layer', layers),
            '',
        ]
    )


def plot(summary, lags, path):
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    names = list(summary['layers'])
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, max(4.5, 1.5 + 0.19 * len(names))), gridspec_kw=dict(width_ratios=[1, 1.25])
    )
    colours = dict(zip(ESTIMATES, ('#888888', '#d95f02', '#1b3a93', '#5f9ed1', '#1b9e77', '#b39ddb')))
    last = lags[-1]
    for i, (estimate, colour) in enumerate(colours.items()):
        values = [100 * summary['median'][lag][estimate] for lag in lags]
        style = dict(color=colour, marker='os^vDX'[i], linestyle='--' if 'float32' in estimate else '-')
        left.plot(lags, values, label=estimate, markersize=6, **style)
        layers = [100 * layer[last][estimate] if last in layer else None for layer in summary['layers'].values()]
        right.plot(layers, range(len(names)), color=colour, marker='os^vDX'[i], linestyle='', markersize=4)
    for axis in (left, right):
        axis.grid(True, which='major', alpha=0.3)
    left.set(
        yscale='log',
        xlabel='lag (iterations)',
        ylabel='error of the standard deviation, %',
        xticks=lags,
        title='median over layers',
    )
    left.legend(frameon=False, fontsize=9)
    right.set(xscale='log', xlabel='error of the standard deviation, %', title=f'each layer, lag {last}')
    right.set_yticks(range(len(names)), names, fontsize=7)
    right.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser, 'with CBN layers')
    parser.add_argument('checkpoint', nargs='?', help='start from these weights (default: as the config says)')
    parser.add_argument('--iters', type=whole(1), default=40, help='training iterations')
    parser.add_argument('--lags', type=whole(1), default=3, help='earlier batches to compare with')
    parser.add_argument('--measured', type=whole(1), default=10, help='how many of the last iterations are measured')
    parser.add_argument('--out-dir', help='where the results go (default: work_dirs/fidelity_NAME)')
    args = parser.parse_args(argv)
    if args.iters < args.lags + args.measured:
        parser.error(f'--iters {args.iters}: must be at least --lags + --measured = {args.lags + args.measured}')
    return args


def main(argv=None):
    args = parse_args(argv)
    out_dir = Path(args.out_dir or f'work_dirs/fidelity_{Path(args.config).stem}')
    cfg = load_config(args.config, args.cfg_options, str(out_dir / 'run'))
    check_config(cfg, ('train',))
    if args.checkpoint:
        check_checkpoint_file(args.checkpoint)
        cfg.load_from = args.checkpoint
    cfg.resume = False
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.default_hooks.checkpoint = None
    prepare(cfg, 'none')
    runner = Runner.from_cfg(cfg)
    hook = FidelityHook(args.iters, args.lags, args.measured)
    runner.register_hook(hook)
    try:
        runner.train()
    except Enough:
        pass
    else:
        raise ValueError(f'--iters {args.iters}: the config trains for {runner.iter} iterations only')
    lags = list(range(1, args.lags + 1))
    summary = summarize(hook.errors, lags)
    text = table(summary, lags)
    write_atomic(text.encode(), out_dir / 'fidelity.md')
    write_atomic(json.dumps(summary, indent=1).encode(), out_dir / 'fidelity.json')
    plot(summary, lags, out_dir / 'fidelity.png')
    print(text)
    print(f'written: {out_dir}/fidelity.md, fidelity.json, fidelity.png')
