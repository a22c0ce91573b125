"""What each norm costs in a training step: the norms take turns, so that what else the machine does hits all."""

import math
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from statistics import median

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmdet.analysis.measure import peak_bytes, timed
from mmdet.engine import DetRunner
from mmdet.ops.norm import CBN
from mmdet.registry import MODELS

MIN_ROUNDS, MAX_ROUNDS = 3, 30


class _Trainer:
    """A detector and its optimizer; each call is one training step with the next of a few batches."""

    def __init__(self, config: Config, batches: Sequence, device: str) -> None:
        torch.manual_seed(0)
        model_config = config.model.to_dict()
        if isinstance(model_config.get('backbone'), dict):
            model_config['backbone']['init_cfg'] = None  # pretrained weights make no step slower
        self.model = MODELS.build(model_config)
        self.model.init_weights()
        self.model.to(device).train()
        self.optim_wrapper = build_optim_wrapper(self.model, config.optim_wrapper.to_dict())
        for group in self.optim_wrapper.optimizer.param_groups:
            group['lr'] = 1e-5  # so that every detector keeps on doing the same work
        self.layers = [layer for layer in self.model.modules() if isinstance(layer, CBN)]
        for layer in self.layers:
            layer.burnin = 0
        self.batches = cycle(batches)

    def __call__(self) -> None:
        torch.manual_seed(0)  # the samplers draw
        self.model.train_step(next(self.batches), self.optim_wrapper)

    @property
    def window_steps(self) -> int:
        """Steps until the windows are full; an exponential one costs the same from the second on."""
        return max((layer.buffer_num + 1 for layer in self.layers if layer.pool == 'sliding'), default=0)

    def window_bytes(self) -> int:
        return sum(layer.window.nbytes for layer in self.layers)


def measure_speed(
    configs: dict[int, dict[str, Config]], seconds: float, say: Callable[[str], None] = lambda text: None
) -> dict:
    """Time and memory of training steps, on the first GPU or else on the CPU.

    Args:
        configs: batch size, norm, and the config that trains it. The others are compared with BN, or the first.
        seconds: about how long all of it takes; no norm gets less than 3 steps.
        say: is told what is measured.

    Returns:
        For ``results.json``: ``note``, on how it was measured, ``reference``, the norm that the others are compared
        with, and ``batch_sizes``: batch size, norm, and

        - ``ratio`` of a step's time to the reference's, and ``seconds``: that times the reference's time;
        - ``peak_mib``: the most that a step holds beyond what is held before it, or None if the system does not say;
        - ``window_mib`` held between steps.
    """
    init_default_scope('mmdet')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    names = list(next(iter(configs.values())))
    reference = 'BN' if 'BN' in names else names[0]
    result: dict[str, dict[str, dict]] = {}
    rounds = []
    for left, (batch, norms) in zip(range(len(configs), 0, -1), configs.items()):
        begin = time.monotonic()
        say(f'speed: batch size {batch}')
        result[str(batch)], number = _measure(norms, reference, device, begin + seconds / left)
        rounds.append(number)
        seconds -= time.monotonic() - begin
    where = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    return dict(
        batch_sizes=result,
        reference=reference,
        note=(
            f'{where}, torch {torch.__version__}; medians of {span(rounds)} rounds in which the norms take '
            "turns, in one process, on batches of the config's own loader, with full windows; ms: the ratio times "
            f'those of {reference}. Peak memory: the most that a step holds beyond what is held before it; window: '
            'what the norm keeps of earlier batches.'
        ),
    )


def _measure(norms: dict[str, Config], reference: str, device: str, end: float) -> tuple[dict[str, dict], int]:
    first = next(iter(norms.values()))
    loader = dict(first.train_dataloader.to_dict(), num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)
    batches = list(islice(DetRunner.build_dataloader(loader, seed=0), 4))
    trainers = {norm: _Trainer(config, batches, device) for norm, config in norms.items()}
    for trainer in trainers.values():
        for _ in range(max(2, trainer.window_steps)):
            trainer()
    peaks = {norm: peak_bytes(trainer, device) / 2**20 for norm, trainer in trainers.items()}
    times: dict[str, list[float]] = {norm: [] for norm in trainers}
    rounds = 0
    while rounds < MIN_ROUNDS or (time.monotonic() < end and rounds < MAX_ROUNDS):
        for norm, trainer in trainers.items():
            times[norm].append(timed(trainer, device))
        rounds += 1
    ratios = {norm: median(a / b for a, b in zip(values, times[reference])) for norm, values in times.items()}
    return {
        norm: dict(
            seconds=ratio * median(times[reference]),
            ratio=ratio,
            peak_mib=_finite(peaks[norm]),
            window_mib=trainers[norm].window_bytes() / 2**20,
        )
        for norm, ratio in ratios.items()
    }, rounds


def span(numbers: list[int]) -> str:
    """'30', or '12 to 30'."""
    return ' to '.join(map(str, sorted({min(numbers), max(numbers)})))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
