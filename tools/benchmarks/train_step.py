"""What a norm costs in a whole training step, as a ratio to BN in the same run.

    python tools/benchmarks/train_step.py [CONFIG] [--device cuda] [--batch-size 1 4] [--image-size 320 480]
        [--where backbone neck bbox_head mask_head] [--profile]

Builds the config's detector once for each norm, which goes where the published table has it (FPN, box head, mask
head) or --where says, and trains it on made-up images and objects: loss, backward, optimizer. The detectors take
turns.
"""

import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmdet.analysis.measure import peak_bytes, timed, traffic
from mmdet.comparison.grid import PLACES, find_places
from mmdet.config import load_config
from mmdet.ops.norm import CBN
from mmdet.options import make_parser
from mmdet.registry import MODELS
from mmdet.run.ending import run_main
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks

ROOT = Path(__file__).resolve().parents[2]
NORMS = {
    'none': None,
    'BN': dict(type='BN'),
    'SyncBN': dict(type='SyncBN'),
    'GN': dict(type='GN', num_groups=32),
    'CBN exact, float32 slopes': dict(type='CBN', buffer_num=3, slope_dtype='float32'),
    'CBN exact': dict(type='CBN', buffer_num=3),
    'CBN secant, sample_stride=2': dict(type='CBN', buffer_num=3, compensation='secant', sample_stride=2),
    'CBN+ (window of 16)': dict(type='CBN+'),
    'CBN+GN': dict(type='CBN+GN', num_groups=32),
}


def build(config, norm, device, where=None):
    """The config's detector in training mode with ``norm`` at ``where`` (neck and heads), and its optimizer."""
    cfg = Config(config._cfg_dict.to_dict())
    cfg.model.backbone.init_cfg = None
    for place in find_places(config, where) if where else set(find_places(config)) - {'backbone'}:
        part = cfg.model
        for key in PLACES[place]:
            part = part[key]
        part.norm_cfg = norm
        if place == 'backbone':
            part.update(frozen_stages=-1, norm_eval=False)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.to(device).train()
    # So small a step that every detector keeps on doing the same work.
    return model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-5, momentum=0.9)


def make_batch(size, number, classes, masks):
    """Random images with 10 boxes each, as the data loader gives them."""
    generator = np.random.default_rng(0)
    height, width = size
    inputs, samples = [], []
    for _ in range(number):
        inputs.append(torch.from_numpy(generator.integers(0, 256, (3, height, width), dtype=np.uint8)))
        corner = generator.uniform(0, 0.6, (10, 2)) * (width, height)
        side = generator.uniform(0.1, 0.4, (10, 2)) * (width, height)
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        instances = InstanceData(
            bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(generator.integers(0, classes, 10))
        )
        if masks:
            planes = np.zeros((10, height, width), dtype=np.uint8)
            for plane, (x1, y1, x2, y2) in zip(planes, boxes.astype(int)):
                plane[y1:y2, x1:x2] = 1
            instances.masks = BitmapMasks(planes, height, width)
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
        sample.gt_instances, sample.ignored_instances = instances, instances[:0]
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def step(model, optimizer, batch):
    torch.manual_seed(0)  # the samplers draw
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main():
    parser = make_parser(__doc__)
    parser.add_argument('config', nargs='?', default=str(ROOT / 'configs/cbn/mask_rcnn_r50_fpn_1x.py'))
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--batch-size', type=int, nargs='+', default=[2])
    parser.add_argument('--image-size', type=int, nargs=2, default=[320, 480], metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument(
        '--norms',
        nargs='+',
        default=list(NORMS),
        choices=list(NORMS),
        metavar='NORM',
        help=f'of {", ".join(map(repr, NORMS))}; BN is always there',
    )
    parser.add_argument(
        '--where',
        nargs='+',
        choices=list(PLACES),
        help='where the norm goes (default: neck and heads); with backbone, none of it is frozen',
    )
    parser.add_argument(
        '--profile',
        action='store_true',
        help='also peak memory in MiB, kernel launches and reads of GPU memory by the processor',
    )
    args = parser.parse_args()
    if min(args.rounds, *args.batch_size) < 1:
        parser.error('--rounds and --batch-size must be 1 or more')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: there is no CUDA device here')
    init_default_scope('mmdet')
    MMLogger.get_instance('mmengine', log_level='ERROR')
    config = load_config(args.config)
    masks = 'mask_head' in config.model.roi_head
    # A ResNet has a norm.
    norms = {
        name: norm
        for name, norm in NORMS.items()
        if name in (*args.norms, 'BN') and (norm or 'backbone' not in (args.where or ()))
    }
    detectors = {name: build(config, norm, args.device, args.where) for name, norm in norms.items()}
    for number in args.batch_size:
        batch = make_batch(tuple(args.image_size), number, config.model.roi_head.bbox_head.num_classes, masks)
        compare(detectors, batch, args, f'{Path(args.config).name}, {number} images of {args.image_size}, ')


def compare(detectors, batch, args, title):
    for detector in detectors.values():
        for _ in range(2):
            step(*detector, batch)
    seconds = {name: [] for name in detectors}
    for _ in range(args.rounds):
        for name, detector in detectors.items():
            seconds[name].append(timed(lambda: step(*detector, batch), args.device))
    peaks = {name: peak_bytes(lambda: step(*detector, batch), args.device) for name, detector in detectors.items()}
    where = f'norm in {", ".join(args.where)}; ' if args.where else ''
    print(f'{title}{args.device}, torch {torch.__version__}; {where}medians of {args.rounds} rounds')
    head = ['norm', 'CBN layers', 'step, ms', '/ BN', 'peak memory / BN']
    head += ['peak, MiB', 'launches', 'reads', 'waits'] if args.profile else []
    print(f'| {" | ".join(head)} |\n|{"---|" * len(head)}')
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds['BN']))
        layers = sum(isinstance(m, CBN) for m in detectors[name][0].modules())
        row = [
            name,
            layers or '',
            f'{1e3 * statistics.median(values):.0f}',
            f'{ratio:.3f}',
            f'{peaks[name] / peaks["BN"]:.2f}',
        ]
        if args.profile:
            row += [f'{peaks[name] / 2**20:.0f}', *traffic(lambda: step(*detectors[name], batch))]
        print(f'| {" | ".join(map(str, row))} |')


if __name__ == '__main__':
    sys.exit(run_main(main))
