"""What the running statistics of BN or CBN do to a model's AP.

    mmdet analyze norms CONFIG CHECKPOINT

Evaluates the same weights with different statistics: 'running', those in the checkpoint; 'batch', each test batch's
own, as BN in training; 'precise', recomputed from --batches training batches under the final weights. A model that is
much better with 'batch' was trained on statistics that its running averages do not stand for; one that is much better
with 'precise' has averages that are too old or too noisy. Batches pass as in BN, which says little of a model that CBN
trained.

With --layers nothing is evaluated: the share of the variance that lies between images is printed for each norm, GN too,
before and after it, over the first --batches test batches.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet.analysis.image_statistics import between_share
from mmdet.config import check_config, load_config
from mmdet.engine import DetRunner
from mmdet.io.checkpoint import check_checkpoint_file, trust_checkpoints
from mmdet.options import add_config, add_trust_checkpoint, add_work_dir, make_parser, whole
from mmdet.run.prepare import prepare
from mmdet.run.progress import track


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers with running statistics (BN, SyncBN, CBN).

    Raises:
        ValueError: there are none.
    """
    found = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    if not found:
        raise ValueError('the model has no norm with running statistics (GN has none): there is nothing to exchange')
    return found


@contextmanager
def own_statistics(model: nn.Module) -> Iterator[None]:
    """In evaluation each batch is normalized with its own statistics, as BN does in training."""
    layers = batch_norms(model)
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    try:
        for layer in layers:
            layer.running_mean = layer.running_var = None
        yield
    finally:
        for layer, (mean, var) in zip(layers, kept):
            layer.running_mean, layer.running_var = mean, var


class _Moments:
    """A forward hook: first and second moment of a layer's input, each batch weighing the same."""

    def __init__(self) -> None:
        self.first = self.second = self.batches = 0

    def __call__(self, layer: _BatchNorm, inputs: tuple, output: torch.Tensor) -> None:
        values = inputs[0].transpose(0, 1).flatten(1).double()
        if values.shape[1]:
            self.first = self.first + values.mean(1)
            self.second = self.second + values.square().mean(1)
            self.batches += 1

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.first / self.batches
        return mean, (self.second / self.batches - mean.square()).clamp(min=0)


@torch.no_grad()
def recompute_statistics(model: nn.Module, batches: Iterable[dict]) -> int:
    """Set running means and variances to those of training batches under the present weights.

    As "precise BN" (Wu & Johnson 2021, arXiv 2105.07576, section 3): the batches pass as in training, each normalized
    with its own statistics; mean and variance are those of all positions of all batches, batches weighing the same.

    Args:
        model: a detector; in training mode afterwards.
        batches: as its data loader gives them.

    Returns:
        How many batches there were.
    """
    layers = batch_norms(model)
    moments = [_Moments() for _ in layers]
    kept = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    number = 0
    model.train()
    with ExitStack() as stack:
        for layer, hook in zip(layers, moments):
            stack.callback(layer.register_forward_hook(hook).remove)
        for batch in batches:
            model(**model.data_preprocessor(batch, True), mode='loss')
            number += 1
    for layer, each, before in zip(layers, moments, kept):
        mean, var = each.statistics() if each.batches else before
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)
    return number


@torch.no_grad()
def between_shares(model: nn.Module, batches: Iterable[dict]) -> dict[str, tuple[float, float]]:
    """How much of each norm's input and output differs between images, of the whole variance.

    As :func:`~mmdet.analysis.image_statistics.image_statistics` says it of pixels: the variance of the images' means
    over that plus the mean of their variances, 0 to 1, averaged over channels. In heads an image is a region.

    Args:
        model: a detector; in evaluation mode afterwards.
        batches: as its data loader gives them.

    Returns:
        Name of each batch or group norm that was called -> shares of its input and its output.
    """
    moments: dict[str, list] = defaultdict(lambda: [[], [], [], []])

    def watch(name: str):
        def hook(layer, inputs, output):
            for i, maps in enumerate((inputs[0], output)):
                values = maps.flatten(2).double()
                if values.numel():
                    moments[name][2 * i].append(values.mean(2))
                    moments[name][2 * i + 1].append(values.var(2, correction=0))

        return hook

    model.eval()
    with ExitStack() as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, (_BatchNorm, nn.GroupNorm)):
                stack.callback(layer.register_forward_hook(watch(name)).remove)
        for batch in batches:
            model(**model.data_preprocessor(batch, False), mode='predict')
    return {
        name: tuple(float(between_share(torch.cat(found[i]), torch.cat(found[i + 1]))[1].mean()) for i in (0, 2))
        for name, found in moments.items()
    }


# -- the command --------------------------------------------------------------------------------------------------


KINDS = ('running', 'batch', 'precise')


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--statistics', nargs='+', choices=KINDS, default=list(KINDS), help='which (default: all)')
    parser.add_argument('--layers', action='store_true', help="what each layer leaves of images' differences")
    parser.add_argument(
        '--batches',
        type=whole(1),
        default=200,
        metavar='N',
        help="training batches, of the config's size, for 'precise'; test batches for --layers (default: 200)",
    )
    add_work_dir(parser)
    add_trust_checkpoint(parser)
    args = parser.parse_args(argv)
    return args


def show_layers(runner, batches):
    loader = runner.test_dataloader
    number = min(batches, len(loader))
    shares = between_shares(runner.model, track(islice(loader, number), 'images', number))
    width = max(map(len, shares), default=0)
    print(f'{"between images, %":{width}}  before  after')
    for name, (before, after) in shares.items():
        print(f'{name:{width}}  {100 * before:6.0f} {100 * after:6.0f}')


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    check_config(cfg, ('test',) + (('train',) if 'precise' in args.statistics and not args.layers else ()))
    check_checkpoint_file(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    prepare(cfg, 'none')
    runner = DetRunner.from_cfg(cfg)
    if not args.layers:
        batch_norms(runner.model)
    results = {}
    with trust_checkpoints(args.trust_checkpoint):
        runner.load_or_resume()
        if args.layers:
            show_layers(runner, args.batches)
            return
        for kind in sorted(set(args.statistics), key=KINDS.index):  # the last one changes the model
            if kind == 'precise':
                loader = runner.build_dataloader(cfg.train_dataloader, seed=runner.seed)
                number = min(args.batches, len(loader))
                done = recompute_statistics(runner.model, track(islice(loader, number), 'statistics', number))
                kind = f'precise, of {done} training batches of {loader.batch_sampler.batch_size}'
            with own_statistics(runner.model) if kind == 'batch' else nullcontext():
                results[kind] = runner.test()
    for kind, metrics in results.items():
        values = '  '.join(
            f'{name.rpartition("/")[2]} {value:.3f}' for name, value in metrics.items() if name.endswith('_mAP')
        )
        print(f'{kind}: {values}')
