"""How much a detector computes for an image, and how many parameters it has, by module.

    mmdet analyze flops CONFIG --shape 800 1280
    mmdet analyze flops CONFIG --num-images 100

FLOPs are multiply-adds, as in mmdetection and most papers; twice as many if each counts as two. Counted are
convolutions and linear layers, with as many proposals and masks as the config's test_cfg allows, whatever the weights.
"""

from dataclasses import dataclass
from statistics import fmean

import torch
from mmengine.registry import init_default_scope
from terminaltables import AsciiTable
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmdet.config import check_config, check_model_config, load_config
from mmdet.options import add_config, make_parser, whole
from mmdet.registry import DATASETS, MODELS


@dataclass
class Row:
    """Holds one module's share of the computation."""

    name: str  # '' for the whole model
    parameters: int
    macs: int  # multiply-adds


@dataclass
class Count:
    """Holds what one image of a size takes."""

    shape: tuple[int, int]  # height, width, padded, in pixels
    proposals: int  # that the box head looks at
    masks: int  # that the mask head draws
    rows: list[Row]  # the whole model, then each module before its own


class Workload(nn.Module):
    """A detector's layers at their full load: as many proposals and detections as its test_cfg allows.

    What is counted then depends on the size of the image alone, not on what is in it or on the weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.numbers = (0, 0)  # proposals and masks of the last call

    def forward(self, inputs: Tensor) -> None:
        """inputs: (1, 3, H, W)."""
        rpn, roi = self.model.rpn_head, self.model.roi_head
        feats = self.model.extract_feat(inputs)
        scores = rpn(feats)[0]
        most = rpn.test_cfg['nms_pre']
        proposals = sum(min(level.numel(), most) if most > 0 else level.numel() for level in scores)
        proposals = min(proposals, rpn.test_cfg['max_per_img'])
        self._head(roi.bbox_head, roi.bbox_roi_extractor, feats, proposals)
        masks = 0
        if roi.with_mask:
            masks = roi.test_cfg['max_per_img'] if roi.test_cfg['max_per_img'] > 0 else proposals
            self._head(roi.mask_head, roi.mask_roi_extractor or roi.bbox_roi_extractor, feats, masks)
        self.numbers = (proposals, masks)

    def _head(self, head: nn.Module, extractor: nn.Module, feats: tuple[Tensor, ...], number: int) -> None:
        regions = feats[0].new_empty(number, extractor.out_channels, *extractor.roi_layers[0].output_size)
        shared = self.model.roi_head.shared_head
        head(regions if shared is None else shared(regions))


def count(model: nn.Module, height: int, width: int, divisor: int = 1, depth: int = 2) -> Count:
    """Multiply-adds of the convolutions and linear layers on one image, and parameters.

    torch's FlopCounterMode counts, on tensors without data ('meta'), so that size costs neither time nor memory. What
    it counts twice, once for the multiplication and once for the addition, is halved: most papers' and mmdetection's
    FLOPs. Norms, pooling, resizing, RoIAlign and NMS are not counted.

    Args:
        model: a two-stage detector; comes out on the meta device.
        height, width: of the image in pixels, padded to a multiple of ``divisor``.
        depth: of the modules that get a row.
    """
    shape = tuple(-(-side // divisor) * divisor for side in (height, width))
    work = Workload(model.to('meta').eval())
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        work(torch.empty(1, 3, *shape, device='meta'))
    counts = {name: sum(kinds.values()) // 2 for name, kinds in counter.get_flop_counts().items()}

    def macs(name: str, module: nn.Module) -> int:
        # A head that is not called as a whole has no entry of its own.
        full = f'Workload.model.{name}'
        if full in counts or not name:
            return counts.get(full, counts['Global'])
        return sum(macs(f'{name}.{child}', part) for child, part in module.named_children())

    rows = [
        Row(name, sum(one.numel() for one in module.parameters()), macs(name, module))
        for name, module in model.named_modules()
        if name.count('.') < depth
    ]
    return Count(shape, *work.numbers, [row for row in rows if row.macs])


def short(number: float, unit: str | None = None) -> str:
    """A number as people write it: 41.5 M; ``unit`` fixes the letter."""
    units = {'T': 1e12, 'G': 1e9, 'M': 1e6, 'K': 1e3, '': 1}
    unit = unit if unit is not None else next((one for one, size in units.items() if number >= size), '')
    return f'{number / units[unit]:.2f} {unit}'.rstrip() if unit else f'{number:g}'


# -- the command --------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser)
    size = parser.add_mutually_exclusive_group()
    size.add_argument('--shape', type=int, nargs='+', help='height and width of the image in pixels, or one side')
    size.add_argument(
        '--num-images',
        type=whole(1),
        default=100,
        help="mean over so many images of the config's test set, as its pipeline resizes them (default: 100)",
    )
    args = parser.parse_args(argv)
    if args.shape is not None and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape {" ".join(map(str, args.shape))}: expected a height and a width, 1 or more')
    return args


def image_shapes(cfg, number):
    """Heights and widths of the first images of the test set after its pipeline."""
    pipeline = [
        step
        for step in cfg.test_dataloader.dataset.pipeline
        if step['type'] not in ('LoadAnnotations', 'PackDetInputs')
    ]
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=pipeline))
    return [tuple(dataset[i]['img'].shape[:2]) for i in range(min(number, len(dataset)))]


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_model_config(cfg)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if args.shape is None:
        try:
            check_config(cfg, ('test',))
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{error}, or give --shape HEIGHT WIDTH') from None
        shapes = image_shapes(cfg, args.num_images)
    else:
        shapes = [(args.shape[0], args.shape[-1])]
    model = MODELS.build(dict(cfg.model, data_preprocessor=None))
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    counts = {shape: count(model, *shape, divisor) for shape in set(shapes)}
    found = [counts[shape] for shape in shapes]
    rows = [['module', 'parameters', 'FLOPs (multiply-adds)', '%']]
    total = fmean(one.rows[0].macs for one in found)
    for i, row in enumerate(found[0].rows):
        macs = fmean(one.rows[i].macs for one in found)
        name = '  ' * row.name.count('.') + row.name.rpartition('.')[2] if row.name else type(model).__name__
        rows.append([name, short(row.parameters), short(macs, 'G'), f'{100 * macs / total:.1f}'])
    print(AsciiTable(rows).table)
    sizes = [one.shape for one in found]
    if args.shape is None:
        each = [one.rows[0].macs for one in found]
        heights, widths = zip(*sizes)
        print(
            f'Mean of {len(found)} images: FLOPs from {short(min(each))} to {short(max(each))}; padded heights '
            f'{min(heights)} to {max(heights)}, widths {min(widths)} to {max(widths)}'
        )
    else:
        print(f'Input shape: {sizes[0][0]} x {sizes[0][1]} (height x width, padded to a multiple of {divisor})')
    most = max(found, key=lambda one: (one.proposals, one.masks))
    print(f'Proposals: {most.proposals}, masks: {most.masks}')
    print(f'FLOPs: {short(total)} multiply-adds ({short(2 * total)} with multiplications and additions counted apart)')
    print(f'Parameters: {short(found[0].rows[0].parameters)}')
