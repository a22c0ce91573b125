"""Train a detector with several norms, batch sizes and seeds, and show what came of it on one page.

    python tools/compare_norms.py CONFIG --norms BN GN CBN SyncCBN --batch-sizes 1 2 4 --seeds 0 1 2 [--resume]

Each combination is a training of its own, started with the command that the page shows. Finished ones are kept in
WORK_DIR/results.json as they come; with --resume they are not run again, and one that was interrupted goes on from its
last checkpoint.
"""
import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.registry import init_default_scope

from mmdet.analysis.norm_grid import PLACES, Cell, Results, cell_config, cell_result, find_norms, find_places
from mmdet.utils.atomic_io import write_atomic
from mmdet.utils.cli import run_main
from mmdet.utils.setup import find_checkpoint, load_config

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file; its norm_cfgs, if it has one, gives norms names')
    parser.add_argument('--norms', nargs='+', default=['BN', 'GN', 'CBN', 'CBN+'], metavar='NORM',
                        help="a type, a key of the config's norm_cfgs, 'none', or NAME=dict(type='CBN', buffer_num=7)")
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=[1, 2, 4], metavar='N', help='images a process')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], metavar='N')
    parser.add_argument('--where', nargs='+', choices=list(PLACES), metavar='PART',
                        help=f'of {", ".join(PLACES)} (default: all, but a backbone with frozen norms)')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare_NAME')
    parser.add_argument('--resume', action='store_true', help='keep what is finished, go on with what is not')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time; they share cores or GPUs')
    parser.add_argument('--processes', type=int, default=1, help='processes (GPUs) of each training')
    parser.add_argument('--no-scale-lr', action='store_true',
                        help="one learning rate for all batch sizes, also where the config's auto_scale_lr has a "
                        'base_batch_size')
    parser.add_argument('--remove-checkpoints', action='store_true', help="of each training once it's finished")
    parser.add_argument('--report-only', action='store_true', help='make the page from what is finished')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings for all of them')
    args = parser.parse_args(argv)
    for name, values, least in (('--batch-sizes', args.batch_sizes, 1), ('--seeds', args.seeds, 0),
                                ('--jobs', [args.jobs], 1), ('--processes', [args.processes], 1)):
        if min(values) < least or len(set(values)) < len(values):
            parser.error(f'{name} {" ".join(map(str, values))}: must be different integers of {least} or more')
    if args.work_dir is None:
        args.work_dir = Path('work_dirs') / f'compare_{Path(args.config).stem}'
    return args


class Grid:
    """Runs the cells that are not finished, ``jobs`` at a time."""

    def __init__(self, args) -> None:
        self.args = args
        self.config = load_config(args.config)
        self.norms = find_norms(args.norms, self.config)
        self.places = find_places(self.config, args.where)
        self.results = Results(args.work_dir / 'results.json')
        if self.results.cells and not (args.resume or args.report_only):
            raise ValueError(f'{self.results.path} holds {len(self.results.cells)} finished trainings: give --resume '
                             'to keep them, or another --work-dir')
        # seed by seed, so that a grid which is stopped early has all norms
        self.cells = [Cell(norm, batch, seed) for seed in args.seeds for batch in args.batch_sizes
                      for norm in self.norms]
        self.commands, self.configs = {}, {}
        for cell in self.cells:
            path = self.folder(cell) / 'config.py'
            text = cell_config(self.config, path, cell, self.norms[cell.norm], self.places, args.cfg_options,
                               not args.no_scale_lr)
            if not args.report_only:
                write_atomic(text.encode(), path)
                self.configs[cell] = load_config(str(path)).pretty_text
            self.commands[cell] = [str(path), '--work-dir', str(self.folder(cell) / 'run')]
        self.running = {}
        self.slots = list(range(args.jobs))

    def folder(self, cell):
        return self.args.work_dir / 'cells' / cell.name

    def command(self, cell, python):
        """Command line of a training, and the same for a person to type."""
        processes = self.args.processes
        start = [python, 'tools/train.py'] if processes == 1 else ['tools/dist_train.sh']
        words = self.commands[cell][:1] + ([str(processes)] if processes > 1 else []) + self.commands[cell][1:]
        return start + words

    def environment(self, slot):
        env = dict(os.environ, PYTHON=sys.executable)
        env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH')]))
        gpus = torch.cuda.device_count()
        count = self.args.processes
        if gpus:
            first = slot * count
            env['CUDA_VISIBLE_DEVICES'] = ','.join(str((first + i) % gpus) for i in range(count))
        else:
            env.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // (self.args.jobs * count))))
        return env

    def start(self, cell):
        slot = self.slots.pop(0)
        run = self.folder(cell) / 'run'
        command = self.command(cell, sys.executable)
        command[command.index('tools/train.py') if 'tools/train.py' in command else 0] = str(
            ROOT / ('tools/train.py' if self.args.processes == 1 else 'tools/dist_train.sh'))
        if run.is_dir() and find_checkpoint(str(run)):
            command.append('--resume')
        with open(self.folder(cell) / 'output.txt', 'ab') as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=self.environment(slot),
                                       stdin=subprocess.DEVNULL, start_new_session=True)
        self.running[cell] = process, slot, time.time()

    def finish(self, cell):
        process, slot, began = self.running.pop(cell)
        self.slots.insert(0, slot)
        folder = self.folder(cell)
        if process.returncode != 0:
            words = (folder / 'output.txt').read_text(errors='replace').strip().splitlines()
            return self.fail(cell, words[-1] if words else f'exit code {process.returncode}')
        examples = self.examples() if cell.seed == self.args.seeds[0] else ()
        try:
            result = cell_result(folder, cell, self.norms[cell.norm], self.configs[cell],
                                 shlex.join(self.command(cell, 'python')), self.args.processes, time.time() - began,
                                 examples)
        except (OSError, ValueError) as error:
            return self.fail(cell, str(error))
        self.results.add(cell.name, result)
        if self.args.remove_checkpoints:
            for path in (folder / 'run').glob('*.pth'):
                path.unlink()
        scores = ', '.join(f'{key.split("/")[-1]} {value:.3f}' for key, value in result['metrics'].items()
                           if key.endswith('_mAP'))
        print(f'{cell.name}: {scores}; {time.time() - began:.0f} s', flush=True)

    def fail(self, cell, reason):
        self.results.fail(cell.name, reason)
        print(f'{cell.name}: FAILED: {reason} (see {self.folder(cell) / "output.txt"})', file=sys.stderr, flush=True)

    def examples(self, number=4):
        """Ids of the images whose detections are kept: spread evenly over the validation set."""
        if not hasattr(self, '_examples'):
            from mmdet.registry import DATASETS
            init_default_scope('mmdet')
            dataset = DATASETS.build(self.config.val_dataloader.dataset)
            step = max(1, len(dataset) // number)
            self._examples = [int(dataset.get_data_info(i)['img_id'])
                              for i in range(step // 2, len(dataset), step)][:number]
        return self._examples

    def run(self):
        waiting = [cell for cell in self.cells if not self.results.done(cell.name, self.configs[cell])]
        print(f'{len(self.cells)} trainings, {len(self.cells) - len(waiting)} of them finished', flush=True)
        try:
            while waiting or self.running:
                while waiting and self.slots:
                    self.start(waiting.pop(0))
                time.sleep(0.5)
                for cell in [c for c, (process, _, _) in self.running.items() if process.poll() is not None]:
                    self.finish(cell)
        finally:
            self.stop()

    def stop(self):
        """Let what runs save its state."""
        # not SIGINT, which processes in the background ignore
        for stop, wait in ((signal.SIGTERM, 120), (signal.SIGKILL, None)):
            for process, _, _ in self.running.values():
                if process.poll() is None:
                    os.killpg(process.pid, stop)
            for process, _, _ in self.running.values():
                try:
                    process.wait(wait)
                except subprocess.TimeoutExpired:
                    pass


def main(argv=None):
    args = parse_args(argv)
    grid = Grid(args)
    if not args.report_only:
        try:
            grid.run()
        except KeyboardInterrupt:
            words = sys.argv[1:] if '--resume' in sys.argv else sys.argv[1:] + ['--resume']
            print(f'\nstopped; to go on: python {shlex.join([sys.argv[0], *words])}', file=sys.stderr)
            raise
    failed = [cell.name for cell in grid.cells if cell.name in grid.results.data['failed']]
    if failed:
        raise RuntimeError(f'{len(failed)} of {len(grid.cells)} trainings failed: {", ".join(failed)}. --resume tries '
                           'them again')


if __name__ == '__main__':
    sys.exit(run_main(main))
