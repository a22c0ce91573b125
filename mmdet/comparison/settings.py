"""What a comparison of norms is asked for."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: where a norm can go: name for the command line, keys of the model
PLACES = {
    'backbone': ('backbone',),
    'neck': ('neck',),
    'bbox_head': ('roi_head', 'bbox_head'),
    'mask_head': ('roi_head', 'mask_head'),
}


@dataclass(frozen=True)
class Settings:
    """A grid of trainings, and how they are run.

    Args:
        config: path or name of the config whose norm is exchanged.
        norms: types, keys of the config's ``norm_cfgs``, 'none', or ``NAME=dict(type=..., ...)``.
        batch_sizes: images a process.
        seeds: one training each.
        learning_rates: the first seed is trained at all of them, the others at the best one of each norm and batch
            size; None for the config's own.
        where: of :data:`PLACES`; None for all, but a backbone with frozen norms.
        work_dir: by default work_dirs/compare_NAME.
        jobs: trainings at a time.
        processes: of each training.
        scale_lr: by the batch size, where the config's ``auto_scale_lr`` has a ``base_batch_size``.
        remove_checkpoints: of each training once it is finished.
        speed_seconds: about how long the steps of the norms are timed; 0 for not at all.
        cfg_options: settings for all trainings, by dotted key.

    Raises:
        ValueError: a value out of its range, by the name of its option.
    """

    config: str
    norms: list[str] = field(default_factory=lambda: ['BN', 'GN', 'CBN', 'CBN+'])
    batch_sizes: list[int] = field(default_factory=lambda: [1, 2, 4])
    seeds: list[int] = field(default_factory=lambda: [0])
    learning_rates: list[float] | None = None
    where: list[str] | None = None
    work_dir: Path | None = None
    jobs: int = 1
    processes: int = 1
    scale_lr: bool = True
    remove_checkpoints: bool = False
    speed_seconds: float = 300
    cfg_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, values, least in (
            ('--batch-sizes', self.batch_sizes, 1),
            ('--seeds', self.seeds, 0),
            ('--jobs', [self.jobs], 1),
            ('--processes', [self.processes], 1),
        ):
            if min(values) < least or len(set(values)) < len(values):
                raise ValueError(f'{name} {" ".join(map(str, values))}: must be different integers of {least} or more')
        rates = [f'{rate:g}' for rate in self.learning_rates or ()]  # as in names of files
        if not all(0 < rate < math.inf for rate in self.learning_rates or ()) or len(set(rates)) < len(rates):
            raise ValueError(f'--learning-rates {" ".join(rates)}: must be different numbers of more than 0')
        if not 0 <= self.speed_seconds < math.inf:
            raise ValueError(f'--speed-seconds {self.speed_seconds:g}: must be a number of 0 or more')

    @property
    def rates(self) -> list[float | None]:
        """Learning rates; None for the config's own."""
        return list(self.learning_rates) if self.learning_rates else [None]

    @property
    def folder(self) -> Path:
        """The work dir."""
        return self.work_dir or Path('work_dirs') / f'compare_{Path(self.config).stem}'

    @property
    def results(self) -> Path:
        """The file of the finished trainings."""
        return self.folder / 'results.json'
