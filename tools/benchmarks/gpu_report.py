"""Parts of the page that tools/gpu_check.sh writes, as Markdown.

python tools/benchmarks/gpu_report.py machine
python tools/benchmarks/gpu_report.py trainings WORK_DIR ...
"""

import math
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch
import torchvision

from mmdet.analysis.logs import read_log
from mmdet.comparison.grid import device_name
from mmdet.options import make_parser
from mmdet.run.ending import run_main


def smi_rows(text):
    """Name, driver and memory of each card, from the lines of nvidia-smi's ``--format=csv,noheader``."""
    return [[cell.strip() for cell in line.split(',')] for line in text.splitlines() if line.count(',') == 2]


def machine():
    """A table of what the numbers below it depend on."""
    rows = [['cards', torch.cuda.device_count()], ['name', device_name()]]
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        rows += [
            ['compute capability', f'{found.major}.{found.minor}'],
            ['memory', f'{found.total_memory / 2**30:.0f} GiB'],
        ]
    if shutil.which('nvidia-smi'):
        smi = subprocess.run(
            ['nvidia-smi', '--query-gpu=name,driver_version,memory.total', '--format=csv,noheader'],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        rows += [['driver', row[1]] for row in smi_rows(smi.stdout)[:1]]
    rows += [
        ['torch', f'{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}'],
        ['torchvision', torchvision.__version__],
        ['Python', platform.python_version()],
    ]
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        rows.append(['NCCL', '.'.join(map(str, torch.cuda.nccl.version()))])
    return [['', ''], ['---', '---'], *rows]


def trainings(work_dirs):
    """A row for each: what the loss did, and what a step took.

    Raises:
        ValueError: a loss that is not finite, or that has not fallen.
    """
    rows, wrong = [], []
    for work_dir in work_dirs:
        log = read_log(work_dir)
        losses, steps = ([record[key] for record in log.train if key in record] for key in ('loss', 'time'))
        memory = [record['memory'] for record in log.train if 'memory' in record]
        ap = [record['coco/bbox_mAP'] for record in log.val if 'coco/bbox_mAP' in record]
        rows.append(
            [
                Path(work_dir).name,
                log.train[-1]['iter'],
                f'{losses[0]:.2f}',
                f'{losses[-1]:.2f}',
                f'{1e3 * median(steps):.0f}',
                max(memory, default=''),
                f'{100 * ap[-1]:.1f}' if ap else '',
            ]
        )
        if not all(map(math.isfinite, losses)) or losses[-1] >= losses[0]:
            wrong.append(Path(work_dir).name)
    head = ['training', 'iterations', 'first loss', 'last loss', 'step, ms', 'memory, MiB', 'box AP, %']
    return [head, ['---'] * len(head), *rows], wrong


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('part', choices=['machine', 'trainings'])
    parser.add_argument('work_dirs', nargs='*', metavar='WORK_DIR')
    args = parser.parse_args(argv)
    rows, wrong = (machine(), []) if args.part == 'machine' else trainings(args.work_dirs)
    for row in rows:
        print('| ' + ' | '.join(map(str, row)) + ' |')
    if wrong:
        raise ValueError(f'the loss is not finite, or has not fallen: {", ".join(wrong)}')


if __name__ == '__main__':
    sys.exit(run_main(main))
