"""How fast a detector detects, or how fast its images are made.

    mmdet analyze speed CONFIG --checkpoint CHECKPOINT
    mmdet analyze speed CONFIG --task dataloader --dataset-type train

Tasks: 'inference' times the model on batches that are already read, with its preprocessing and postprocessing, on the
GPU if there is one; 'dataloader' times the config's loader with its workers; 'dataset' one image after the other in
this process. Without a checkpoint weights are random, and postprocessing, which depends on what is found, is not to be
relied on.
"""

import resource
import statistics
import sys
import time
from itertools import islice

import numpy as np
import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmdet.analysis.measure import timed
from mmdet.apis import init_detector
from mmdet.config import check_config, load_config
from mmdet.options import add_config, make_parser, whole


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser)
    parser.add_argument('--checkpoint', help='checkpoint file (default: random weights)')
    parser.add_argument(
        '--task',
        choices=['inference', 'dataloader', 'dataset'],
        default='inference',
        help='what is timed (default: inference)',
    )
    parser.add_argument('--repeat-num', type=whole(1), default=1, help='repeat so many times (default: 1)')
    parser.add_argument(
        '--max-iter',
        type=whole(1),
        default=2000,
        help='batches, or images of the dataset task, at most (default: 2000)',
    )
    parser.add_argument('--log-interval', type=whole(1), default=50, help='print after so many (default: 50)')
    parser.add_argument('--num-warmup', type=whole(0), default=5, help='before time is taken (default: 5)')
    parser.add_argument('--fuse-conv-bn', action='store_true', help='put BN (and CBN) into the convolution before it')
    parser.add_argument(
        '--dataset-type', choices=['train', 'val', 'test'], default='test', help='whose images (default: test)'
    )
    args = parser.parse_args(argv)
    if args.task != 'inference' and (args.fuse_conv_bn or args.checkpoint):
        parser.error(f'--task {args.task}: there is no model in it; leave out --fuse-conv-bn and --checkpoint')
    return args


def inference_times(args, cfg, loader):
    """A function that gives (seconds, images) of each batch in turn, and the device's name."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = init_detector(cfg, args.checkpoint, device)
    if args.fuse_conv_bn:
        fuse_conv_bn(model)

    @torch.no_grad()
    def times():
        for batch in islice(loader, args.num_warmup):
            model.test_step(batch)
        if device == 'cuda':
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        for batch in islice(loader, args.max_iter):
            yield timed(lambda: model.test_step(batch), device), len(batch['inputs'])

    threads = torch.get_num_threads()
    return times, torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {threads} thread{"s" * (threads > 1)}'


def read_times(args, source):
    """(seconds, images) of what comes from an iterable, without the first ones."""
    items = iter(source)
    for _ in islice(items, args.num_warmup):
        pass
    for _ in range(args.max_iter):
        start = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        data = item['inputs']
        yield time.perf_counter() - start, 1 if isinstance(data, torch.Tensor) and data.dim() == 3 else len(data)


def run_once(args, times, what):
    """Print as it goes; the seconds and images of each."""
    found = []
    for number, one in enumerate(times, 1):
        found.append(one)
        if number % args.log_interval == 0:
            seconds, images = map(sum, zip(*found))
            print(
                f'{number} {what}: {images / seconds:.2f} images/s, {1e3 * seconds / images:.1f} ms an image',
                flush=True,
            )
    if not found:
        raise ValueError(f'--num-warmup {args.num_warmup}: nothing is left to time; there are fewer {what} than that')
    return found


def memory():
    if torch.cuda.is_available():
        return f'peak GPU memory: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB allocated'
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    return f'peak resident memory of this process: {size / 2**20:.0f} MiB'


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, (args.dataset_type,))
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    loader = Runner.build_dataloader(cfg[f'{args.dataset_type}_dataloader'], seed=0)
    what = 'images' if args.task == 'dataset' else 'batches'
    if args.task == 'inference':
        times, place = inference_times(args, cfg, loader)
    elif args.task == 'dataloader':
        times, place = lambda: read_times(args, loader), f'{loader.num_workers} workers'
    else:
        dataset = loader.dataset
        times, place = lambda: read_times(args, (dataset[i] for i in range(len(dataset)))), 'this process'
    print(f'{args.task}: {args.config}, {args.dataset_type} set, {len(loader.dataset)} images; {place}', flush=True)
    runs = [run_once(args, times(), what) for _ in range(args.repeat_num)]
    speeds = [sum(images for _, images in run) / sum(seconds for seconds, _ in run) for run in runs]
    each = [1e3 * seconds for run in runs for seconds, _ in run]
    points = ', '.join(
        f'{name} {value:.1f}'
        for name, value in (
            ('mean', statistics.fmean(each)),
            *zip(('median', '90 %', '99 %'), np.percentile(each, (50, 90, 99))),
            ('longest', max(each)),
        )
    )
    spread = f' (mean of {len(runs)} runs, standard deviation {statistics.stdev(speeds):.2f})' if len(runs) > 1 else ''
    print(f'ms {"an image" if args.task == "dataset" else "a batch"}: {points}')
    print(f'{args.task}: {statistics.fmean(speeds):.2f} images/s{spread}; {memory()}')
