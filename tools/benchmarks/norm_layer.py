"""What a norm costs: forward and backward of convolution, norm and ReLU, as a ratio to BN in the same run.

    python tools/benchmarks/norm_layer.py [--device cuda] [--batch-size 1 4] [--rounds 15] [--out table.md]

The norms take turns within each round, so that what else the machine does hits all of them; a ratio is the median
over rounds. Peak memory is that of one step beyond what is held before it; window state is what the norm keeps for
the earlier batches.
"""

import importlib.util
import math
import statistics
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from mmdet.analysis.measure import peak_bytes, timed
from mmdet.ops.norm import build_norm_layer, conv_norm
from mmdet.options import make_parser
from mmdet.run.ending import run_main

ROOT = Path(__file__).resolve().parents[2]
WINDOW = 3
#: input (N, C, H, W), output channels, kernel: FPN output and lateral, mask head, box head, of 2 images
SHAPES = {
    'FPN 3x3 (2,256,50,76)': ((2, 256, 50, 76), 256, 3),
    'FPN 1x1 (2,1024,25,38)': ((2, 1024, 25, 38), 256, 1),
    'mask 3x3 (128,256,14,14)': ((128, 256, 14, 14), 256, 3),
    'box 3x3 (512,256,7,7)': ((512, 256, 7, 7), 256, 3),
}
NORMS = {
    'none': None,
    'BN': dict(type='BN'),
    'GN': dict(type='GN', num_groups=32),
    "CBN, the authors' way": 'paper',
    'CBN exact, float32 slopes': dict(type='CBN', buffer_num=WINDOW, slope_dtype='float32'),
    'CBN exact': dict(type='CBN', buffer_num=WINDOW),
    'CBN sample_stride=2': dict(type='CBN', buffer_num=WINDOW, sample_stride=2),
    'CBN secant, sample_stride=2': dict(type='CBN', buffer_num=WINDOW, compensation='secant', sample_stride=2),
    'CBN+ (window of 16)': dict(type='CBN+'),
    'CBN+GN': dict(type='CBN+GN', num_groups=32),
}


def paper_norm(channels):
    path = ROOT / 'tests' / 'reference' / 'paper_cbn.py'
    spec = importlib.util.spec_from_file_location('paper_cbn', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PaperCBN(channels, WINDOW)


class Block(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, shape, channels, kernel, norm):
        super().__init__()
        self.conv = nn.Conv2d(shape[1], channels, kernel, padding=kernel // 2, bias=norm is None)
        self.paper = norm == 'paper'
        self.norm = paper_norm(channels) if self.paper else norm and build_norm_layer(norm, channels)[1]

    def forward(self, x):
        if self.norm is None:
            y = self.conv(x)
        else:
            y = self.norm(self.conv, x) if self.paper else conv_norm(self.conv, self.norm, x)
        return F.relu(y, inplace=True)

    def state_bytes(self):
        if self.paper:
            return self.norm.state_bytes()
        window = getattr(self.norm, 'window', None)
        return 0 if window is None else window.nbytes


def step(block, x, grad):
    block.zero_grad(set_to_none=True)
    x.grad = None
    block(x).backward(grad)
    with torch.no_grad():  # weights move, as in training
        block.conv.weight.sub_(block.conv.weight.grad, alpha=1e-6)


def measure(shape, channels, kernel, norms, rounds, device):
    """For each norm: seconds of every round, peak bytes, window bytes."""
    torch.manual_seed(0)
    x = torch.randn(shape, device=device).relu_().requires_grad_()
    blocks = {name: Block(shape, channels, kernel, norm).to(device) for name, norm in norms.items()}
    grad = torch.randn((shape[0], channels, *shape[2:]), device=device) / (shape[0] * shape[2] * shape[3])
    for block in blocks.values():
        for _ in range(WINDOW + 1):
            step(block, x, grad)
    seconds = {name: [] for name in norms}
    for _ in range(rounds):
        for name, block in blocks.items():
            seconds[name].append(timed(lambda: step(block, x, grad), device))
    memory = {name: peak_bytes(lambda: step(block, x, grad), device) for name, block in blocks.items()}
    return seconds, memory, {name: block.state_bytes() for name, block in blocks.items()}


def shapes_of(number, channels):
    """:data:`SHAPES` for another number of images, and with another width than 256."""
    shapes = {}
    for name, ((n, width, *size), out, kernel) in SHAPES.items():
        shape = (n * number // 2, width * channels // 256, *size)
        name = f'{name.partition(" (")[0]} ({",".join(map(str, shape))})'
        shapes[name] = (shape, out * channels // 256, kernel)
    return shapes


def geometric_mean(values):
    return math.exp(statistics.mean(map(math.log, values)))


def table(results):
    """Lines of a Markdown table, one row for each norm."""
    shapes = list(results)
    head = ['norm', *shapes, 'geometric mean', 'peak memory / BN', 'window state, MiB', "/ the authors'"]
    rows = []
    for name in NORMS:
        ratios, peaks, states = [], [], []
        for seconds, memory, state in results.values():
            ratios.append(statistics.median(a / b for a, b in zip(seconds[name], seconds['BN'])))
            peaks.append(memory[name] / memory['BN'])
            states.append(state[name])
        authors = sum(state["CBN, the authors' way"] for _, _, state in results.values())
        rows.append(
            [
                name,
                *(f'{r:.3f}' for r in ratios),
                f'{geometric_mean(ratios):.3f}',
                f'{statistics.mean(peaks):.2f}',
                f'{sum(states) / 2**20:.1f}',
                f'{sum(states) / authors:.2f}' if sum(states) else '',
            ]
        )
    times = [1e3 * statistics.median(seconds['BN']) for seconds, _, _ in results.values()]
    peak = statistics.mean(memory['BN'] for _, memory, _ in results.values())
    rows.append(['BN, ms', *(f'{t:.1f}' for t in times), '', f'{peak / 2**20:.0f} MiB', '', ''])
    return ['| ' + ' | '.join(row) + ' |' for row in [head, ['---'] * len(head), *rows]]


def main():
    parser = make_parser(__doc__)
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--rounds', type=int, default=15, help='timed steps of each norm and shape')
    parser.add_argument('--batch-size', type=int, nargs='+', default=[2], help='images; a table for each')
    parser.add_argument('--channels', type=int, default=256, help="the shapes' width, a multiple of 32")
    parser.add_argument('--threads', type=int, help="of the CPU (default: torch's)")
    parser.add_argument('--out', help='write the table to this file as well')
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f'--rounds {args.rounds}: must be 1 or more')
    if min(args.batch_size) < 1 or args.channels < 32 or args.channels % 32:
        parser.error('--batch-size must be 1 or more, --channels a multiple of 32')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: there is no CUDA device here')
    if args.threads:
        torch.set_num_threads(args.threads)
    what = torch.cuda.get_device_name() if args.device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    tables = []
    for number in args.batch_size:
        print(
            f'{what}; torch {torch.__version__}; {number} images, ratios to BN, medians of {args.rounds} rounds',
            flush=True,
        )
        results = {}
        for name, spec in shapes_of(number, args.channels).items():
            results[name] = measure(*spec, NORMS, args.rounds, args.device)
            print(f'  {name} done', file=sys.stderr, flush=True)
        tables.append('\n'.join(table(results)))
        print(tables[-1])
    if args.out:
        Path(args.out).write_text('\n\n'.join(tables) + '\n')


if __name__ == '__main__':
    sys.exit(run_main(main))
