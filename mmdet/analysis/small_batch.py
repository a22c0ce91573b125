"""What norms are worth with 1, 2 or 4 images a batch: a trial on 8x8 digits, minutes on a laptop, no download.

    mmdet analyze digits [--norms BN paper-4 CBN+] [--batch-sizes 1 2] [--seeds 0 1 2]

Trains a net of four convolutions, each with the norm after it, for every norm, batch size and seed; prints a table of
test accuracies and writes it, a plot and the single results to --out-dir: table.md, plot.png, results.json. What
results.json has under the same settings is not trained again, so that seeds can be added; --restart trains anew, for
instance after a change of the norms' code. BN with 16 images a batch is what the others should reach.
"""

import functools
import io
import json
import math
import multiprocessing
import os
import signal
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mmdet.io.atomic import write_atomic
from mmdet.ops.norm import build_norm_layer, conv_norm
from mmdet.options import make_parser, whole
from mmdet.words import nearest

# A window of n batches is this one and buffer_num = n - 1 earlier ones.
WINDOW_4 = dict(type='CBN', buffer_num=3)
GRADIENT = dict(compensation='secant', backprop='window')
#: label: what it is, norm_cfg; burn-in and statistics' momentum are the trial's
NORMS = {
    'BN': ('batch normalization', dict(type='BN')),
    'GN': ('group normalization, 8 groups', dict(type='GN', num_groups=8)),
    'naive-4': ('window of 4, earlier statistics as they were', dict(WINDOW_4, compensation='none')),
    'paper-4': ('window of 4, Taylor, gradient of the current batch (the paper)', WINDOW_4),
    'taylor-4': ('window of 4, Taylor, gradient through the window', dict(WINDOW_4, backprop='window')),
    'secant-4': ('window of 4, secant, gradient through the window', dict(WINDOW_4, **GRADIENT)),
    'exponential-4': ('the same, exponential window of 4', dict(WINDOW_4, pool='exponential', **GRADIENT)),
    'exponential-16': (
        'the same, exponential window of 16',
        dict(type='CBN', buffer_num=15, pool='exponential', **GRADIENT),
    ),
    'CBN+': ('the same with pooled running statistics and sampled slopes', dict(type='CBN+')),
}
REFERENCE = 'BN', 16
RECIPE = dict(
    train_images=1200,
    channels=[16, 32, 32, 64],
    # Not below 4x4 positions: on 2x2 BN at batch 1 has 4 values a channel and is lost.
    strides=[1, 2, 1, 1],
    lr=0.01,
    full_lr_from_batch=4,
    momentum=0.9,
    burnin_epochs=0.5,
    statistics_momentum=0.02,
)


@functools.cache
def digits():
    """Training images and labels, test images and labels; the same for all seeds."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # Shuffled: the set is ordered by writer, and this trial is not about new writers.
    order = np.random.RandomState(0).permutation(len(data.target))
    images = torch.tensor(data.images[order], dtype=torch.float32).unsqueeze(1) / 16
    labels, number = torch.tensor(data.target[order]), RECIPE['train_images']
    return images[:number], labels[:number], images[number:], labels[number:]


class Net(nn.Module):
    """Four convolutions with norm and ReLU, mean over the positions, linear classifier."""

    def __init__(self, norm_cfg):
        super().__init__()
        channels = RECIPE['channels']
        self.convs = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
            for c_in, c_out, stride in zip([1] + channels, channels, RECIPE['strides'])
        )
        self.norms = nn.ModuleList(build_norm_layer(norm_cfg, c)[1] for c in channels)
        self.classifier = nn.Linear(channels[-1], 10)

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms):
            x = F.relu(conv_norm(conv, norm, x))
        return self.classifier(x.mean((2, 3)))


def cell_settings(label, batch_size, seed, epochs):
    """Everything that a result depends on, but for the code: what identifies it in results.json."""
    norm_cfg = dict(NORMS[label][1])
    if norm_cfg['type'] != 'GN':
        norm_cfg['momentum'] = RECIPE['statistics_momentum']
    if norm_cfg['type'].startswith('CBN'):
        norm_cfg['burnin'] = int(RECIPE['burnin_epochs'] * math.ceil(RECIPE['train_images'] / batch_size))
    return dict(
        label=label,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs,
        norm_cfg=norm_cfg,
        recipe=RECIPE,
        torch=torch.__version__,
    )


def train(settings):
    """Train one net; returns the settings with ``accuracy`` on the test images, in %, and ``seconds``."""
    start = time.perf_counter()
    # The steps are too small for more, and with one the sums have one order.
    torch.set_num_threads(1)
    torch.manual_seed(settings['seed'])
    images, labels, test_images, test_labels = digits()
    net, batch_size = Net(settings['norm_cfg']), settings['batch_size']
    lr = RECIPE['lr'] * min(batch_size / RECIPE['full_lr_from_batch'], 1) ** 0.5
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=RECIPE['momentum'])
    steps = settings['epochs'] * math.ceil(len(images) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(settings['epochs']):
        for batch in torch.randperm(len(images)).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        correct = net(test_images).argmax(1) == test_labels
    return dict(settings, accuracy=100 * correct.double().mean().item(), seconds=time.perf_counter() - start)


def _worker():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a traceback of its own


def train_all(cells, workers):
    """Yield the result of each cell as it is done."""
    if workers == 1:
        yield from map(train, cells)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'), _worker)
    try:
        for done in as_completed([pool.submit(train, cell) for cell in cells]):
            yield done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def key(settings):
    """The settings as a string, without what a result adds to them."""
    return json.dumps(
        {name: value for name, value in settings.items() if name not in ('accuracy', 'seconds')}, sort_keys=True
    )


def read_results(path):
    """Finished cells of an earlier run by their settings."""
    if not path.is_file():
        return {}
    try:
        results = json.loads(path.read_text())
        return {key(result): result for result in results if math.isfinite(result['accuracy'])}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'{path}: not results of this tool ({type(error).__name__}: {error}); remove it or choose another --out-dir'
        ) from error


def summarize(results):
    """{(label, batch size): [accuracies]}"""
    cells = {}
    for result in results:
        cells.setdefault((result['label'], result['batch_size']), []).append(result['accuracy'])
    return cells


def spread(values):
    """Standard deviation over seeds; 0 for one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def number(values):
    """Mean and spread in words."""
    text = f'{statistics.mean(values):.1f}'
    return text if len(values) == 1 else f'{text} ± {spread(values):.1f}'


def table(cells, norms, batch_sizes, seeds, epochs):
    """Markdown."""
    test_images = len(digits()[3])
    over = f'mean ± standard deviation over {len(seeds)} seeds' if len(seeds) > 1 else 'one seed'
    lines = [
        f'Test accuracy in %, {over}; {RECIPE["train_images"]} training and {test_images} test images, '
        f'{epochs} epoch{"s" * (epochs > 1)}.',
        f'{REFERENCE[0]} with batch {REFERENCE[1]}: {number(cells[REFERENCE])}.',
        '',
        '| norm | | ' + ' | '.join(f'batch {size}' for size in batch_sizes) + ' |',
        '|---|---|' + '---|' * len(batch_sizes),
    ]
    for label in norms:
        values = ' | '.join(number(cells[label, size]) for size in batch_sizes)
        lines.append(f'| {label} | {NORMS[label][0]} | {values} |')
    return '\n'.join(lines) + '\n'


def _scale(accuracy):
    # Logarithmic in the errors: 98 and 99 % are as far apart as 80 and 90.
    return -np.log10(np.clip(100.2 - np.asarray(accuracy, dtype=float), 1e-3, None))


def _spaced(places, gap):
    """The places, moved apart to ``gap`` at least with their order kept."""
    order = np.argsort(places, kind='stable')
    moved = np.array(places, dtype=float)[order]
    for _ in range(200):
        near = gap - np.diff(moved)
        if (near < 1e-6).all():
            break
        push = np.clip(near, 0, None) / 2
        moved[:-1] -= push
        moved[1:] += push
    result = np.empty_like(moved)
    result[order] = moved
    return result


def plot(cells, norms, batch_sizes, seeds, epochs):
    """The picture as PNG bytes: smaller batches to the right, where the norms part and their names stand."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 5.4), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.11, 0.68, 0.78))
    sizes = sorted(batch_sizes, reverse=True)
    right = len(sizes) - 0.7
    axes.set_xlim(-0.3, right)
    reference = statistics.mean(cells[REFERENCE])
    axes.axhline(_scale(reference), color='black', linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    names = [(f'{REFERENCE[0]}, batch {REFERENCE[1]}', reference, 'black')]
    for i, label in enumerate(norms):
        style = list(NORMS).index(label)  # a norm's own, whichever are drawn
        colour, marker = colormaps['tab10']((0, 1, 2, 3, 4, 5, 6, 9, 8)[style % 9]), 'osD^vP*Xp'[style % 9]
        means = [statistics.mean(cells[label, size]) for size in sizes]
        low, high = (
            _scale([mean + sign * spread(cells[label, size]) for mean, size in zip(means, sizes)]) for sign in (-1, 1)
        )
        # Side by side, so that error bars do not hide each other.
        x = np.arange(len(sizes)) + 0.035 * (i - (len(norms) - 1) / 2)
        y = _scale(means)
        axes.errorbar(
            x,
            y,
            (y - low, high - y),
            color=colour,
            marker=marker,
            markersize=5.5,
            linewidth=1.5,
            elinewidth=1,
            capsize=2.5,
            zorder=2,
        )
        names.append((label, means[-1], colour))
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)
    ends = [_scale(mean) for _, mean, _ in names]
    margin = 0.02 * (right + 0.3)
    for (label, mean, colour), end, place in zip(names, ends, _spaced(ends, 0.045 * (top - bottom))):
        axes.plot([right, right + 2 * margin], [end, place], color=colour, linewidth=0.8, clip_on=False)
        axes.text(right + 2.5 * margin, place, f'{label}  {mean:.1f}', color=colour, fontsize=9, va='center')
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    ticks = [t for t in (0, 20, 40, 60, 80, 90, 95, 97, 98, 99, 99.5, 100) if bottom <= _scale(t) <= top]
    axes.set_yticks(_scale(ticks), [f'{t:g}' for t in ticks])
    axes.grid(axis='y', color='0.9')
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    axes.set_xlabel('images a batch')
    axes.set_ylabel('test accuracy in % (logarithmic in the errors)')
    bars = f', bars: standard deviation over {len(seeds)} seeds' if len(seeds) > 1 else ', one seed'
    axes.set_title(f'8x8 digits, {epochs} epoch{"s" * (epochs > 1)}{bars}', fontsize=10, loc='left')
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    return buffer.getvalue()


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('--norms', nargs='+', default=list(NORMS), metavar='LABEL', help=f'of {", ".join(NORMS)}')
    parser.add_argument(
        '--batch-sizes', nargs='+', type=whole(1), default=[1, 2, 4], metavar='N', help='images a batch'
    )
    parser.add_argument('--seeds', nargs='+', type=whole(0), default=[0, 1], metavar='S', help='one training each')
    parser.add_argument('--epochs', type=whole(1), default=4)
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/small_batch'))
    parser.add_argument(
        '--workers',
        type=whole(1),
        default=min(os.cpu_count() or 1, 4),
        help='trainings at a time: a core and 0.5 GB of memory each (default: %(default)s)',
    )
    parser.add_argument('--restart', action='store_true', help='train anew what results.json has')
    args = parser.parse_args(argv)
    for label in args.norms:
        if label not in NORMS:
            parser.error(f'--norms: unknown norm {label!r}; known are {", ".join(NORMS)}{nearest(label, NORMS)}')
    if max(args.batch_sizes) > RECIPE['train_images']:
        parser.error(
            f'--batch-sizes must be at most {RECIPE["train_images"]}, the training images, got {max(args.batch_sizes)}'
        )
    for name in ('norms', 'batch_sizes', 'seeds'):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    return args


def main(argv=None):
    args = parse_args(argv)
    try:
        digits()
    except ImportError as error:
        raise ImportError(f'the digits come with scikit-learn ({error}): pip install scikit-learn') from error
    path = args.out_dir / 'results.json'
    results = read_results(path)
    wanted = [(label, size) for size in sorted(args.batch_sizes) for label in args.norms]  # longest first
    cells = [
        cell_settings(*cell, seed, args.epochs) for cell in dict.fromkeys(wanted + [REFERENCE]) for seed in args.seeds
    ]
    to_do = [cell for cell in cells if args.restart or key(cell) not in results]
    print(f'trainings: {len(cells)}, finished before: {len(cells) - len(to_do)}', flush=True)
    start = time.perf_counter()
    for i, result in enumerate(train_all(to_do, min(args.workers, max(len(to_do), 1))), 1):
        results[key(result)] = result
        write_atomic(json.dumps(list(results.values()), indent=1).encode(), path)
        print(
            f'[{i}/{len(to_do)}] {result["label"]}, batch {result["batch_size"]}, seed {result["seed"]}: '
            f'{result["accuracy"]:.1f} % ({result["seconds"]:.1f} s)',
            flush=True,
        )
    if to_do:
        print(f'trained in {time.perf_counter() - start:.0f} s')
    arguments = (summarize(results[key(cell)] for cell in cells), args.norms, args.batch_sizes, args.seeds, args.epochs)
    text = table(*arguments)
    write_atomic(text.encode(), args.out_dir / 'table.md')
    write_atomic(plot(*arguments), args.out_dir / 'plot.png')
    print(f'\n{text}\n{args.out_dir / "table.md"}, {args.out_dir / "plot.png"}')
