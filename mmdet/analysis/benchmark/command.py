"""The rows of the table, and the command that fills it."""

import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from mmdet.datasets.coco_classes import COCO_CLASSES
from mmdet.engine.amp import emulates_bfloat16
from mmdet.io.atomic import write_atomic
from mmdet.options import make_parser, whole

from . import inputs
from .contender import Contender

CONFIG = 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
PEERS = ('torchvision', 'mmdet')
#: (images, height, width) of a training step
BATCHES = ((2, 320, 512), (1, 800, 1333))
KINDS = ('train', 'infer', 'data', 'evaluate', 'start')


@dataclass
class Row:
    """A piece of work, and what it took each contender."""

    work: str
    target: float | None = None  # of the ratio to the faster peer
    unit: str = 's'
    limit: float | None = None  # of seconds, where there is no peer
    #: by contender, of each round
    values: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def against(self) -> str | None:
        """The peer with the smallest median."""
        peers = {name: statistics.median(own) for name, own in self.values.items() if name != 'ours'}
        return min(peers, key=peers.__getitem__) if peers else None

    def ratios(self) -> list[float]:
        """Of each round, to that peer."""
        peer = self.against()
        return [] if peer is None else [a / b for a, b in zip(self.values.get('ours', ()), self.values[peer])]

    def cells(self, names: list[str]) -> list[str]:
        """Of the table's line."""

        def show(name):
            if name in self.failed:
                return 'fails'
            own = self.values.get(name)
            return '' if not own else f'{statistics.median(own):.3g} {self.unit}'

        ratios = self.ratios()
        last = f'**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})' if ratios else ''
        target = '' if self.target is None else f'{self.target:g}'
        target = target if self.limit is None else f'{self.limit:g} {self.unit}'
        return [self.work, *map(show, names), last, target]


class Bench:
    """Runs contenders in turns.

    Args:
        args: of the command line.
        folder: for what is made up.
    """

    def __init__(self, args, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.rows: list[Row] = []

    def contenders(self, **settings) -> dict[str, tuple]:
        """Interpreter, script and settings of each; ``vision`` are those that are torchvision's own."""
        own = settings.pop('vision', {})
        common = dict(device=self.args.device, amp=False, config=CONFIG, **settings)
        found = dict(ours=(sys.executable, 'toolbox', common))
        if 'torchvision' in self.args.peers and own is not None:
            found['torchvision'] = (sys.executable, 'vision', dict(common, **own))
        if 'mmdet' in self.args.peers:
            found['mmdetection'] = (self.args.peer_python, 'toolbox', common)
        return found

    def race(self, rows: list[Row], contenders: dict[str, tuple], peak: Row | None = None, rounds: int = 0) -> None:
        """Let contenders take turns; their times go into the rows, their memory into ``peak``."""
        running: list[Contender] = []
        for name, (python, script, settings) in contenders.items():
            try:
                running.append(Contender(name, python, script, settings, self.folder))
            except RuntimeError as error:
                print(f'{rows[0].work}: {name} fails: {error}', flush=True)
                for row in (*rows, *filter(None, [peak])):
                    row.failed[name] = str(error)
        try:
            for _ in range(rounds or self.args.rounds):
                for one in running:
                    seconds = one.ask()
                    for row in rows:
                        row.values.setdefault(one.name, []).append(seconds)
            for one in running if peak is not None else ():
                most = one.ask('peak')
                if not math.isnan(most):
                    peak.values[one.name] = [most / 2**20]
                if self.args.profile and one.name == 'ours':
                    longest, total = one.ask('profile')
                    print(f'profile of {peak.work.removeprefix("its peak memory, ")}, {total:.3g} s:')
                    for name, seconds, calls in longest:
                        print(f'  {name}: {seconds:.3g} s, {100 * seconds / total:.0f} %, {calls} calls', flush=True)
        finally:
            for one in running:
                one.stop()
        for row in (*rows, *filter(None, [peak])):
            self.add(row)

    def add(self, row: Row) -> None:
        """Keep a finished row, and say what it says."""
        self.rows.append(row)
        print(' | '.join(row.cells(self.names())), flush=True)

    def names(self) -> list[str]:
        """The columns, by contender."""
        known = ('ours', 'torchvision', 'mmdetection', 'pycocotools')
        return [name for name in known if any(name in {**row.values, **row.failed} for row in self.rows)]

    # -- what is raced --------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Steps in float32, and in mixed precision beside the peers' float32 and their own mixed precision."""
        for images, height, width in BATCHES:
            what = f'training step, {images}x {height}x{width}'
            plain = self.contenders(work='train', images=images, height=height, width=width)
            memory = Row(f'its peak memory, {images}x {height}x{width}', 0.85, 'MiB')
            self.race([Row(what, 0.75)], plain, memory)
            self.half(what, plain, 1.0, 0.45)

    def half(self, what: str, plain: dict[str, tuple], target: float | None, mixed_target: float) -> None:
        """The same in bfloat16, and our times of that beside the peers' of the last row, in float32."""
        if self.args.device == 'cpu' and emulates_bfloat16():
            print(f'{what}, bf16: left out, this CPU has no instructions for it', flush=True)
            return
        last = next(row for row in reversed(self.rows) if row.unit == 's')
        half = {name: (python, script, dict(own, amp=True)) for name, (python, script, own) in plain.items()}
        self.race([Row(f'{what}, bf16, all', target)], half)
        values = dict(last.values, ours=self.rows[-1].values.get('ours', []))
        self.add(Row(f'{what}, bf16, peers float32', mixed_target, values=values))

    def infer(self) -> None:
        """From image files to masks in them."""
        paths = inputs.pictures(self.folder, 2)
        inputs.weights(self.folder, paths[0])
        for number in (1, 2):
            what = f'inference, {number} image{"s" * (number > 1)} of {inputs.SIDES[0]}x{inputs.SIDES[1]}'
            own = dict(work='infer', images=paths[:number], weights=str(self.folder / 'toolbox.pth'))
            plain = self.contenders(**own, vision=dict(weights=str(self.folder / 'vision.pth')))
            self.race([Row(what, 0.85)], plain)
            self.half(what, plain, None, 0.50)

    def data(self) -> None:
        """From image file and polygons to a packed sample, in one process on one core."""
        number = 50
        inputs.pictures(self.folder, number)
        own = dict(work='data', annotations=str(self.folder / 'train.json'), folder=str(self.folder), vision=None)
        self.race([Row(f'data pipeline, {number} images with polygons', 0.5)], self.contenders(**own, threads=1))

    def evaluate(self) -> None:
        """From detections to COCO's numbers."""
        inputs.detections(self.folder, self.args.eval_images)
        for kind, target in (('bbox', 0.05), ('segm', 0.2)):
            files = dict(annotations='val.json', detections='found.pth', results='found.json')
            own = dict(
                work='evaluate',
                kinds=[kind],
                classes=COCO_CLASSES,
                warmup=1,
                **{key: str(self.folder / name) for key, name in files.items()},
            )
            both = dict(ours=(sys.executable, 'toolbox', own), pycocotools=(sys.executable, 'coco', own))
            what = f'evaluation, {kind}, {self.args.eval_images} images of {inputs.VAL2017[2]} detections'
            self.race([Row(what, target)], both, rounds=3)

    def start(self) -> None:
        """From the command to its first words."""
        pythons = dict(ours=sys.executable)
        if 'mmdet' in self.args.peers:
            pythons['mmdetection'] = self.args.peer_python
        code = 'import time; start = time.perf_counter(); import mmdet; print(time.perf_counter() - start)'
        row = Row('import mmdet', 0.5)
        self.clock(row, {name: [python, '-c', code] for name, python in pythons.items()}, said=True)
        row = Row('mmdet train --help', limit=1)
        self.clock(row, dict(ours=[sys.executable, '-m', 'mmdet', 'train', '--help']))
        shapes = self.folder / 'data/shapes'
        config = 'configs/shapes/mask-rcnn_r18_fpn_cbn.py'
        subprocess.run(
            [sys.executable, '-m', 'mmdet', 'data', 'shapes', '--out', str(shapes)],
            check=True, cwd=self.folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        run = [sys.executable, '-m', 'mmdet', 'train', config, '--work-dir', 'run']
        run += ['--cfg-options', 'default_hooks.logger.interval=1', 'randomness.seed=0']
        row = Row("first iteration of the demo's training", limit=5)
        self.clock(row, dict(ours=run), r'Epoch\(train\)')

    def clock(self, row: Row, commands: dict[str, list[str]], until: str | None = None, said: bool = False) -> None:
        """Seconds until a command ends, or until it prints what ``until`` matches; or those that it says at its end."""
        for number in range(self.args.rounds + 1):
            for name, command in commands.items():
                own = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH' or name == 'ours'}
                start = time.perf_counter()
                with subprocess.Popen(
                    command, cwd=self.folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                ) as process:
                    lines = []
                    for line in process.stdout:
                        lines.append(line)
                        if until and re.search(until, line):
                            process.kill()
                            break
                seconds = time.perf_counter() - start
                if process.returncode and not (until and re.search(until, lines[-1])):
                    row.failed[name] = lines[-1] if lines else str(process.returncode)
                    print(f'{row.work}: {name} fails: {row.failed[name]}')
                elif number:  # the first one warms the disk's cache
                    row.values.setdefault(name, []).append(float(lines[-1]) if said else seconds)
        self.add(row)


def machine(device: str) -> str:
    """Name the processor, or the GPU."""
    if device == 'cuda':
        return torch.cuda.get_device_name()
    try:
        found = re.search(r'model name\s*: (.+)', Path('/proc/cpuinfo').read_text())
    except OSError:
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f'{name} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads'


def versions(args, folder: str) -> str:
    """Of what takes part; ``folder`` is an empty one, as an interpreter imports first what lies where it is started."""
    names = ('torch', 'torchvision', 'numpy', 'opencv-python', 'pycocotools')
    found = [f'{name} {version(name)}' for name in names]
    if 'mmdet' in args.peers:
        code = 'import mmdet, torch; print(f"mmdetection {mmdet.__version__} with torch {torch.__version__}")'
        peer = subprocess.run([args.peer_python, '-c', code], capture_output=True, text=True, cwd=folder)
        found.append(peer.stdout.strip() or 'mmdetection that does not start')
    return ', '.join(found)


def table(bench: Bench) -> Iterator[str]:
    """Lines of the Markdown table."""
    names = bench.names()
    yield '| work | ' + ' | '.join(names) + ' | ratio to the faster (least to greatest) | target |'
    yield '|' + '---|' * (len(names) + 3)
    for row in bench.rows:
        yield f'| {" | ".join(row.cells(names))} |'


def parse_args(argv=None):
    from . import __doc__ as about

    parser = make_parser(about)
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--peers', nargs='*', default=None, choices=PEERS, metavar='PEER', help='torchvision, mmdet')
    parser.add_argument('--peer-python', metavar='PATH', help='interpreter of an environment with mmdetection 3.x')
    parser.add_argument(
        '--only', nargs='+', default=KINDS, choices=KINDS, metavar='WORK', help=f'of {", ".join(KINDS)}'
    )
    parser.add_argument('--rounds', type=whole(1), default=5, help='timed rounds of each work (default: 5)')
    parser.add_argument(
        '--eval-images', type=whole(1), default=inputs.VAL2017[0], help="images of the evaluation (default: val2017's)"
    )
    parser.add_argument('--profile', action='store_true', help='what takes longest in our training step')
    parser.add_argument('--out', metavar='FILE', help='write the table to this file as well')
    args = parser.parse_args(argv)
    if args.peers is None:
        args.peers = [peer for peer in PEERS if peer != 'mmdet' or args.peer_python]
    if 'mmdet' in args.peers and not args.peer_python:
        parser.error('--peers mmdet: needs --peer-python, the interpreter of an environment with mmdetection')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: there is no CUDA device here')
    return args


def main(argv=None):
    args = parse_args(argv)
    if args.peer_python:
        path = shutil.which(args.peer_python)
        if path is None:
            raise FileNotFoundError(
                f'--peer-python {args.peer_python}: no such program; it wants the path of an interpreter'
            )
        args.peer_python = os.path.abspath(path)  # the workers run in a folder of their own
    with tempfile.TemporaryDirectory() as folder:
        system = f'{platform.system()}, Python {platform.python_version()}'
        head = f'{machine(args.device)}; {system}; {versions(args, folder)}'
        print(head, flush=True)
        bench = Bench(args, Path(folder))
        for kind in args.only:
            work: Callable[[], None] = getattr(bench, kind)
            work()
        lines = list(table(bench))
    print('\n'.join(['', *lines]))
    if args.out:
        write_atomic('\n'.join([f'{head}; medians of {args.rounds} rounds.', '', *lines, '']).encode(), args.out)
