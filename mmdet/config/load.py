"""From a config file and command-line options to a config."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdet.mmdetection.paths import explain

from .names import find_config


def load_config(path: str, options: dict | None = None, work_dir: str | None = None) -> Config:
    """Read a config file and merge command-line options into it.

    Args:
        path: the config file, or the name of one that comes with mmdet.
        options: ``--cfg-options``, dotted keys and values.
        work_dir: where the run writes; by default the config's ``work_dir`` or ``work_dirs/NAME``.

    Raises:
        FileNotFoundError, KeyError: no such file, no such name. ValueError: the file is no config.
    """
    if not Path(path).is_file():
        path = str(find_config(path))
    if '' not in sys.path:  # modules of custom_imports are found where a command is run; last, it hides nothing
        sys.path.append('')
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'config {path}: {error} (named in its _base_?)') from error
    except Exception as error:
        if isinstance(error, ImportError) and 'custom modules' in str(error):
            raise ValueError(f'config {path}: custom_imports: {_import_problem(error)}') from error
        raise ValueError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    if options:
        cfg.merge_from_dict(options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path).stem)
    _complete_backends(cfg)
    return cfg


def _import_problem(error: ImportError) -> str:
    """What kept a module from being imported; mmengine leaves it out."""
    while isinstance(inner := error.__cause__ or error.__context__, ImportError):
        error = inner
    text = explain(error)
    if isinstance(error, ModuleNotFoundError) and not text.startswith('mmdet'):
        text += f'; modules are looked for in the folder of the run, {os.getcwd()}, and in those of PYTHONPATH'
    return text


def inner_dataset(dataset: Any, until: str = '') -> Any:
    """What is inside of wrappers (``dataset``) and, first of several, of lists (``datasets``).

    Args:
        dataset: a data set's config, or a built one.
        until: the outermost config with this key instead, if there is one.
    """
    while not (until and until in dataset):
        get = dataset.get if isinstance(dataset, dict) else partial(getattr, dataset)
        inner = get('dataset', None)
        inner = next(iter(get('datasets', None) or ()), None) if inner is None else inner
        if inner is None:
            break
        dataset = inner
    return dataset


def step_name(step: dict) -> str:
    """The name of a transform's class, without its package; ``type`` may be the class itself."""
    kind = step['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


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
            backend['tracking_uri'] = os.environ.get('MLFLOW_TRACKING_URI') or f'sqlite:///{folder.parent}/mlflow.db'
            backend.setdefault('run_name', folder.name)
            # an experiment of our own: the default one's files go where the command runs
            backend.setdefault('exp_name', 'mmdet')
            if backend['tracking_uri'].startswith('sqlite:'):
                backend.setdefault('artifact_location', (folder.parent / 'mlruns').as_uri())
