"""From a config file and command-line options to a config that the runner can run."""

import logging
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.logging import print_log

from mmdet.registry import DATASETS
from mmdet.utils.checkpoint import check_checkpoint_file
from mmdet.utils.config_check import check_model_config, check_parts, walk
from mmdet.utils.ranks import check_timeout, slurm_environment

#: hooks that every run gets, also with a config written for another toolbox
RUN_HOOKS = ('CBNHook', 'CheckpointCheckHook', 'ProgressHook', 'ResourceHook')


def load_config(path: str, options: dict | None = None, work_dir: str | None = None) -> Config:
    """Read a config file and merge command-line options into it.

    Args:
        path: the config file.
        options: ``--cfg-options``, dotted keys and values.
        work_dir: where the run writes; by default the config's ``work_dir`` or ``work_dirs/NAME``.

    Raises:
        FileNotFoundError: no such file. ValueError: the file is no config.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path}: no such file')
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'config {path}: {error} (named in its _base_?)') from error
    except Exception as error:
        raise ValueError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    if options:
        cfg.merge_from_dict(options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    _complete_backends(cfg)
    return cfg


def _complete_backends(cfg: Config) -> None:
    """Make backends of the names in ``visualizer.vis_backends``, beside the local one, whose files our tools read.

    MLflow's, which no longer writes into folders as mmengine has it do, gets the database mlflow.db beside the work
    dir, for all runs there, unless its ``tracking_uri`` or MLFLOW_TRACKING_URI name another place.
    """
    backends = (cfg.get('visualizer') or {}).get('vis_backends')
    backends = [backends] if isinstance(backends, str) else backends
    if not isinstance(backends, (list, tuple)):
        return
    if any(isinstance(backend, str) for backend in backends):
        backends = [dict(type=backend) if isinstance(backend, str) else backend for backend in backends]
        others = [backend for backend in backends if backend.get('type') != 'LocalVisBackend']
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend'), *others]
    for backend in cfg.visualizer.vis_backends:
        if isinstance(backend, dict) and backend.get('type') == 'MLflowVisBackend' and 'tracking_uri' not in backend:
            folder = Path(cfg.work_dir).absolute()
            backend.tracking_uri = os.environ.get('MLFLOW_TRACKING_URI') or f'sqlite:///{folder.parent}/mlflow.db'
            backend.setdefault('run_name', folder.name)
            # an experiment of our own: the default one's files go where the command runs
            backend.setdefault('exp_name', 'mmdet')
            if backend.tracking_uri.startswith('sqlite:'):
                backend.setdefault('artifact_location', (folder.parent / 'mlruns').as_uri())


def check_config(cfg: Config, parts: tuple[str, ...]) -> None:
    """Look at what a run will need before it writes anything.

    Args:
        cfg: the merged config.
        parts: the sections that will run, of 'train', 'val' and 'test'.

    Raises:
        KeyError, TypeError, ValueError: a part or an argument that there is not, a norm_cfg that cannot be built,
            named by its key path.
        FileNotFoundError: a data root, annotation file or image folder that is not there.
        ValueError: a head for another number of classes than the data set has.
    """
    check_model_config(cfg)
    check_parts(cfg, parts)
    for part in parts:
        loader = cfg.get(f'{part}_dataloader')
        if loader is None:
            raise KeyError(f"config {cfg.filename}: has no key '{part}_dataloader'")
        for path, node in walk(loader.to_dict(), f'{part}_dataloader'):
            if 'ann_file' in node:
                _check_paths(cfg.filename, path, node)
                _check_classes(cfg, path, node)


def _check_paths(config: str, path: str, dataset: dict) -> None:
    root = dataset.get('data_root') or ''
    wanted = [('data_root', root), ('ann_file', os.path.join(root, dataset['ann_file']))]
    wanted += [
        (f'data_prefix.{key}', os.path.join(root, value))
        for key, value in (dataset.get('data_prefix') or {}).items()
        if isinstance(value, str)
    ]
    for key, target in wanted:
        if target and '://' not in target and not os.path.exists(target):
            raise FileNotFoundError(
                f'config {config}, {path}.{key}: {target} does not exist. See INSTALL.md for the layout of the data, '
                f'or set the key, for instance --cfg-options {path}.data_root=...'
            )


def _check_classes(cfg: Config, path: str, dataset: dict) -> None:
    kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
    classes = (dataset.get('metainfo') or {}).get('classes') or getattr(kind, 'METAINFO', {}).get('classes')
    if not isinstance(classes, (list, tuple)):
        return
    for key, node in walk(cfg.model.to_dict().get('roi_head'), 'model.roi_head'):
        if node.get('num_classes', len(classes)) != len(classes):
            raise ValueError(
                f'config {cfg.filename}, {key}.num_classes: {node["num_classes"]}, but {path} has '
                f'{len(classes)} classes (metainfo.classes): {", ".join(map(repr, classes[:5]))}'
                f'{", ..." if len(classes) > 5 else ""}'
            )


def restarted() -> float | None:
    """Since when the run is going on if a launcher has started this process again (torchrun, Slurm), else None.

    Seconds since 1970; 0 if that is not known.
    """
    if any(int(os.environ.get(name) or 0) > 0 for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')):
        return float(os.environ.get('MMDET_STARTED') or 0)
    return None


def find_checkpoint(work_dir: str, since: float = 0) -> str | None:
    """The checkpoint to resume from: the one that ``last_checkpoint`` names, or else the newest whole one.

    ``last_checkpoint`` may be lost with the machine, damaged, or name the place from which the work dir was moved.
    None if there is neither it nor a file ``epoch_*.pth`` or ``iter_*.pth``, written at ``since`` (seconds) or later.

    Raises:
        FileNotFoundError, ValueError: there are such files, but none can be read.
    """
    folder = Path(work_dir)
    pointer = folder / 'last_checkpoint'
    named = pointer.read_text(errors='backslashreplace').strip() if pointer.is_file() else ''
    if '://' in named:  # what only a stranger writes: mmdet's names a file
        named = ''
    times = {}
    for path in (path for pattern in ('epoch_*.pth', 'iter_*.pth') for path in folder.glob(pattern)):
        with suppress(OSError):  # a link to nowhere, or removed since
            times[path] = path.stat().st_mtime
    found = sorted((path for path in times if times[path] >= since), key=times.get, reverse=True)
    if since and pointer.is_file() and pointer.stat().st_mtime < since:
        named = ''
    problems: list[Exception] = []
    for path in ([named] if named else []) + [str(path) for path in found]:
        try:
            check_checkpoint_file(path)
        except FileNotFoundError:
            problems.append(FileNotFoundError(f'{pointer}: names {path[:200]!r}, which is not there'))
        except ValueError as error:
            if str(error) not in map(str, problems):  # the pointer's is met again among the files
                problems.append(error)
        else:
            if problems:
                print_log(
                    f'--resume: {"; ".join(map(str, problems))}; going on from {path}', 'current', logging.WARNING
                )
            return path
    if problems:
        raise problems[0]
    return None


def prepare(cfg: Config, launcher: str) -> None:
    """Complete a config in place and start the process group where mmengine cannot.

    The backend of ``env_cfg.dist_cfg`` becomes gloo where there is no GPU and nccl where 'auto' is asked for. Under
    Slurm torchrun's variables are set and then used.

    Raises:
        KeyError: launcher 'slurm' without srun. ValueError: a timeout that is no number of seconds.
    """
    if launcher == 'slurm':
        slurm_environment()
        launcher = 'pytorch'
    cfg.launcher = launcher
    hooks = list((cfg.get('default_hooks') or {}).values()) + list(cfg.get('custom_hooks') or [])
    present = {hook.get('type') for hook in hooks if isinstance(hook, dict)}
    cfg.custom_hooks = list(cfg.get('custom_hooks') or []) + [
        dict(type=hook) for hook in RUN_HOOKS if hook not in present
    ]
    cfg.setdefault('default_scope', 'mmdet')
    env = cfg.setdefault('env_cfg', {})
    dist_cfg = env.setdefault('dist_cfg', {})
    dist_cfg['backend'] = pick_backend(dist_cfg.get('backend', 'auto'))
    timeout = check_timeout(dist_cfg, f'config {cfg.filename}')
    if launcher != 'none' and not torch.cuda.is_available():
        # mmengine names a CUDA device, both to start the group and to wrap the model.
        cfg.model_wrapper_cfg = dict(
            type='mmdet.CPUDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        if launcher == 'pytorch' and not is_distributed():
            # mmengine makes a timedelta of the timeout, too
            torch.distributed.init_process_group(**dict(dist_cfg, timeout=timedelta(seconds=timeout)))


def pick_backend(wanted: str) -> str:
    """'gloo' without CUDA; with it what is wanted, 'nccl' for 'auto'."""
    if not torch.cuda.is_available():
        if wanted == 'nccl':
            print_log('no CUDA here: backend gloo instead of nccl', 'current')
        return 'gloo'
    return 'nccl' if wanted == 'auto' else wanted
