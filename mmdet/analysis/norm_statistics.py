"""The statistics that batch norms evaluate with, exchanged: running averages, the batch's own, or recomputed ones."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet.analysis.image_statistics import between_share


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
