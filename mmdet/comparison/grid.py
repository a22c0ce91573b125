"""A grid of trainings that differ in norm, batch size, seed and rate, which can be interrupted and gone on with."""

import json
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config

from mmdet.analysis.logs import read_log
from mmdet.comparison.settings import PLACES
from mmdet.comparison.tracking import cell_backends
from mmdet.config.text import config_values
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS, build_norm_layer


@dataclass(frozen=True)
class Cell:
    """Names one training of the grid by what sets it apart."""

    norm: str
    batch_size: int  # images a process
    seed: int
    lr: float | None = None  # None: the config's

    @property
    def name(self) -> str:
        """For files; the same in every session."""
        rate = '' if self.lr is None else f'_lr{self.lr:g}'
        return f'{file_name(self.norm)}_b{self.batch_size}_s{self.seed}{rate}'


def file_name(norm: str) -> str:
    return re.sub(r'[^A-Za-z0-9.-]', '_', norm.replace('+', 'plus'))


def find_norms(names: Sequence[str], config: Config) -> dict[str, dict | None]:
    """The norm_cfg behind each name.

    Args:
        names: a key of the config's ``norm_cfgs``, a norm's type, ``none``, or ``NAME=dict(type=..., ...)``.
        config: the config whose norm is exchanged.

    Raises:
        KeyError, TypeError, ValueError: a norm that cannot be built; a name that is there twice, or that differs from
            another only in characters which file names cannot have.
    """
    known = config.get('norm_cfgs') or {}
    norms: dict[str, dict | None] = {}
    for text in names:
        name, given, value = text.partition('=')
        if not file_name(name).strip('_.-'):
            raise ValueError(f"--norms {text}: a name is missing before the '='; it goes into file names")
        if given:
            norm = _parse(text, value)
        elif name in known:
            norm = known[name] and known[name].to_dict()
        elif name == 'none':
            norm = None
        else:
            norm = dict(type=name, num_groups=32) if name == 'GN' else dict(type=name)
        if norm is not None:
            try:
                build_norm_layer(norm, norm.get('num_groups', 1))
            except (KeyError, TypeError, ValueError) as error:
                names_here = f"; the config's norm_cfgs has {', '.join(known)}" if known else ''
                raise type(error)(f'--norms {text}: {error.args[0]}{names_here}') from None
        if file_name(name).lower() in [file_name(other).lower() for other in norms]:
            raise ValueError(f'--norms {text}: its name is there twice, or too like another; names go into file names')
        norms[name] = norm
    return norms


def _parse(text: str, value: str) -> dict:
    try:
        return Config.fromstring(f'norm_cfg = {value}', '.py').norm_cfg.to_dict()
    except Exception:
        raise ValueError(
            f"--norms {text}: after the '=' comes a norm_cfg, for instance wide=dict(type='CBN', buffer_num=7)"
        ) from None


def find_places(config: Config, wanted: Sequence[str] | None = None) -> list[str]:
    """Where the norm is exchanged: the ``wanted`` of :data:`PLACES`, or all, but for a backbone with frozen norms.

    Raises:
        KeyError: the model has no such part.
    """
    places = []
    for place, keys in PLACES.items():
        part: Any = config.model
        for key in keys:
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict) and (place in wanted if wanted else not part.get('norm_eval', False)):
            places.append(place)
    missing = sorted(set(wanted or ()) - set(places))
    if missing:
        raise KeyError(f'config {config.filename}: --where {" ".join(missing)}: the model has no such part')
    return places


def cell_config(
    config: Config,
    path: Path,
    cell: Cell,
    norm: dict | None,
    places: Sequence[str],
    options: dict | None = None,
    scale_lr: bool = True,
) -> str:
    """Text of a config file at ``path`` that trains one cell: the config's, with what the cell sets.

    Args:
        config: with the options in it.

    Raises:
        ValueError: ``none`` in the backbone, which cannot be without a norm; an option that the grid itself sets.
    """
    fixed = {'train_dataloader.batch_size': '--batch-sizes', 'randomness.seed': '--seeds'}
    if cell.lr is not None:
        fixed['optim_wrapper.optimizer.lr'] = '--learning-rates'
    for key in set(options or ()) & set(fixed):
        raise ValueError(f'--cfg-options {key}: is set for each training by {fixed[key]}')
    if norm is None and 'backbone' in places:
        raise ValueError("--norms none: a ResNet has a norm; leave 'backbone' out of --where")
    base = os.path.relpath(Path(config.filename).resolve(), path.parent.resolve())
    lines = [f"_base_ = '{base}'", '']
    model: dict = {}
    for place in places:
        part, present = model, config.model
        for key in PLACES[place]:
            part, present = part.setdefault(key, {}), present[key]
        part['norm_cfg'] = norm
        if norm is not None and isinstance(present.get('norm_cfg'), dict):
            part['norm_cfg'] = dict(norm, _delete_=True)
    settings: dict = dict(
        model=model, train_dataloader=dict(batch_size=cell.batch_size), randomness=dict(seed=cell.seed)
    )
    if cell.lr is not None:
        settings['optim_wrapper'] = dict(optimizer=dict(lr=cell.lr))
    if scale_lr and 'base_batch_size' in (config.get('auto_scale_lr') or {}):
        settings['auto_scale_lr'] = dict(enable=True)
    if 'max_iters' in (config.get('train_cfg') or {}):
        # else all evaluations are logged as of epoch 0
        settings['log_processor'] = dict(by_epoch=False)
        settings['default_hooks'] = dict(logger=dict(type='LoggerHook', log_metric_by_epoch=False))
    settings.update(_write_results(config.get('val_evaluator'), str(path.parent / 'val')))
    extra = Config(settings)
    if options:
        extra.merge_from_dict(_whole_lists(options, config))
    backends = cell_backends(config, cell.name)
    if backends:
        extra.merge_from_dict({'visualizer.vis_backends': backends})
    return '\n'.join(lines) + extra.pretty_text


def _whole_lists(options: dict, config: Config) -> dict:
    """Options that reach into a list (``param_scheduler.0.end``) with the whole list in their place.

    A config cannot change one item of its base's list.
    """
    whole = {}
    for key, value in options.items():
        words = key.split('.')
        depth = next((i for i, word in enumerate(words) if word.isdecimal()), None)
        if depth is not None:
            key, value = '.'.join(words[:depth]), config.to_dict()
            for word in words[:depth]:
                value = value[word]
        whole[key] = value
    return whole


def _write_results(evaluator: Any, prefix: str) -> dict:
    """The setting that has the evaluator write what was detected, if it can."""
    metrics = [evaluator] if isinstance(evaluator, dict) else list(evaluator or ())
    for metric in metrics:
        kind = metric.get('type')
        kind = METRICS.get(kind) if isinstance(kind, str) else kind
        if kind is not None and issubclass(kind, CocoMetric):
            if isinstance(evaluator, dict):
                return dict(val_evaluator=dict(outfile_prefix=prefix))
            # a list of a config replaces its base's as a whole
            return dict(
                val_evaluator=[dict(each, outfile_prefix=prefix) if each is metric else each for each in metrics]
            )
    return {}


class MissingEvaluation(ValueError):
    """A training has come to its end, but was killed in the last evaluation."""


def cell_result(
    folder: Path,
    cell: Cell,
    norm: dict | None,
    config: str,
    command: str,
    processes: int,
    seconds: float,
    examples: Sequence[int] = (),
) -> dict:
    """What is kept of a finished training.

    Args:
        folder: the cell's, with ``config.py``, the work dir ``run`` and the last evaluation's results ``val.*.json``.
        config: text of the merged config.
        command: with which it was trained.
        seconds: the training took in this session.
        examples: image ids whose detections are kept.

    Raises:
        FileNotFoundError: no log. MissingEvaluation: the last evaluation is not in it.
    """
    log = read_log(folder / 'run')
    values = config_values(config)
    unit, last = training_length(values)
    if not log.val or log.val[-1]['step'] < last:
        raise MissingEvaluation(f'{folder / "run"}: the log holds no evaluation of {unit} {last}')
    curve = [
        {'step': record['step'], **{key: value for key, value in record.items() if '/' in key}} for record in log.val
    ]
    steps = [record['time'] for record in log.train if 'time' in record]
    memory = [record['memory'] for record in log.train if 'memory' in record]
    resident = [
        int(text)
        for file in (folder / 'run').glob('*/*.log')
        for text in re.findall(r'peak resident memory: (\d+) MiB', file.read_text())
    ]
    return dict(
        norm=cell.norm,
        norm_cfg=norm,
        batch_size=cell.batch_size,
        seed=cell.seed,
        lr=cell.lr,
        processes=processes,
        unit=unit,
        metrics={key: value for key, value in curve[-1].items() if key != 'step'},
        curve=curve,
        losses=[[record['iter'], record['loss']] for record in log.train],
        iteration_seconds=median(steps) if steps else None,
        images_per_second=cell.batch_size * processes / median(steps) if steps else None,
        gpu_memory_mib=max(memory, default=None),
        memory_mib=max(resident, default=None),
        seconds=round(seconds),
        finished=time.strftime('%Y-%m-%d %H:%M'),
        config=config,
        cell_config=(folder / 'config.py').read_text(),
        command=command,
        machine=dict(torch=torch.__version__, device=device_name(), cores=os.cpu_count()),
        detections=_detections(folder, examples),
    )


def training_length(config: dict) -> tuple[str, int]:
    """'epoch' or 'iteration', and how many of them a training has."""
    train = config['train_cfg']
    return ('iteration', train['max_iters']) if 'max_iters' in train else ('epoch', train['max_epochs'])


def device_name() -> str:
    """Of the GPU or the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        found = re.search(r'model name\s*:\s*(.+)', Path('/proc/cpuinfo').read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine() + ' CPU'


def _detections(folder: Path, examples: Sequence[int], least: float = 0.3) -> dict[str, list]:
    """Detections of the example images with a score of ``least`` or more, in COCO's format of results."""
    kept: dict[str, list] = {str(image): [] for image in examples}
    files = sorted(folder.glob('val.*.json'))
    if files and examples:
        # a result with masks holds the boxes' classes and scores too
        name = 'val.segm.json' if (folder / 'val.segm.json') in files else 'val.bbox.json'
        for item in json.loads((folder / name).read_text()):
            if str(item['image_id']) in kept and item['score'] >= least:
                kept[str(item['image_id'])].append(item)
    return kept
