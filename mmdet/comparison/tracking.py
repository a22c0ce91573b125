"""The comparison in Weights & Biases and MLflow, where the config's ``vis_backends`` name them."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdet.comparison.numbers import Numbers, metric_name, table_rows, total_batch
from mmdet.comparison.results import Results
from mmdet.config import step_name

#: columns, rows
Table = tuple[list[str], list[list]]
#: takes the id of a run
Keep = Callable[[str], None]


def find_trackers(config: Config) -> dict[str, dict]:
    """The backends that have tables, by their package.

    Args:
        config: as :func:`~mmdet.config.load_config` returns it.

    Raises:
        ImportError: the package of one is not installed.
    """
    found: dict[str, dict] = {}
    for backend in (config.get('visualizer') or {}).get('vis_backends') or ():
        name = step_name(backend) if 'type' in backend else ''
        package = name.removesuffix('VisBackend').lower()
        if package not in _SENDERS or package in found:
            continue
        if find_spec(package) is None:
            raise ImportError(
                f'visualizer.vis_backends: {name}: the package {package!r} is not installed (pip install {package})'
            )
        found[package] = dict(backend)
    return found


def cell_backends(config: Config, cell: str) -> list[dict]:
    """``vis_backends`` for the training of a cell, whose runs are to be beside the comparison's; empty if none of them
    has runs."""
    if not find_trackers(config):
        return []
    backends, folder = [], Path(config.work_dir)
    for backend in config.visualizer.vis_backends:
        one = backend.to_dict()
        if step_name(one) == 'WandbVisBackend':
            one['init_kwargs'] = {'group': folder.name, 'name': cell, **(one.get('init_kwargs') or {})}
        elif step_name(one) == 'MLflowVisBackend':
            one['run_name'] = f'{one.get("run_name") or folder.name} {cell}'
        backends.append(one)
    return backends


def send_tables(results: Results, folder: Path, trackers: dict[str, dict]) -> None:
    """Write both tables and the page into a run of each tracker, the same one every time.

    Args:
        results: of the comparison; the ids of the runs are added to it, and saved.
        folder: the comparison's, with ``index.html`` and ``table.md``.
        trackers: of :func:`find_trackers`.
    """
    if not trackers:
        return
    tables = dict(norms=norms_table(results.data), trainings=trainings_table(results.data))
    runs = results.data.setdefault('runs', {})
    for package, backend in trackers.items():

        def keep(run: str, package: str = package) -> None:
            """Before anything is sent: a second try goes on with this run."""
            runs[package] = run
            results.save()

        _SENDERS[package](backend, folder, tables, runs.get(package), keep)


def norms_table(data: dict) -> Table:
    """A row for each norm and batch size, at its best learning rate: means over seeds, AP in per cent, and the speed.

    ``best`` says whether a norm is above every other by Welch's t test (95 %).
    """
    numbers = Numbers(data)
    speed = (data.get('speed') or {}).get('batch_sizes') or {}
    reference = (data.get('speed') or {}).get('reference')
    columns = ['norm', 'images a batch', 'learning rate', 'seeds']
    for key in numbers.shown:
        columns += [f'{metric_name(key)}, %', f'{metric_name(key)}, sd', f'{metric_name(key)}, best']
    if speed:
        columns += ['step, ms', f'step / {reference}', 'peak memory, MiB', 'window, MiB']
    stats = [dict(table_rows(numbers, [key])) for key in numbers.shown]
    rows = []
    for i, total in enumerate(numbers.totals):
        for norm in numbers.norms:
            cells = numbers.select(norm, total)
            if not cells:
                continue
            row: list = [norm, total, cells[0].get('lr'), len(cells)]
            for of_key in stats:
                value, best = of_key[norm][i]
                sd = None if value is None or value.sd is None else 100 * value.sd
                row += [value and 100 * value.mean, sd, best]
            if speed:
                one = (speed.get(str(total)) or {}).get(norm) or {}
                seconds = one.get('seconds')
                row += [seconds and 1e3 * seconds, one.get('ratio'), one.get('peak_mib'), one.get('window_mib')]
            rows.append(row)
    return columns, rows


def trainings_table(data: dict) -> Table:
    """A row for each finished training; metrics from 0 to 1, as they are logged."""
    numbers = Numbers(data)
    known = ['images_per_second', 'memory_mib', 'gpu_memory_mib', 'seconds', 'finished', 'command']
    columns = ['training', 'norm', 'images a batch', 'seed', 'learning rate', *numbers.keys, *known]
    rows = [
        [name, cell['norm'], total_batch(cell), cell['seed'], cell.get('lr')]
        + [cell['metrics'].get(key) for key in numbers.keys]
        + [cell.get(key) for key in known]
        for name, cell in data['cells'].items()
    ]
    return columns, rows


def _to_wandb(backend: dict, folder: Path, tables: dict[str, Table], run_id: str | None, keep: Keep) -> None:
    import wandb

    words = {'group': folder.name, 'name': folder.name, **(backend.get('init_kwargs') or {})}
    words |= dict(dir=str(folder), id=run_id, resume='allow', job_type='comparison')
    with wandb.init(**words) as run:
        keep(run.id)
        logged: dict[str, Any] = {
            name: wandb.Table(columns=columns, data=rows) for name, (columns, rows) in tables.items()
        }
        run.log(dict(logged, page=wandb.Html(str(folder / 'index.html'))))


def _to_mlflow(backend: dict, folder: Path, tables: dict[str, Table], run_id: str | None, keep: Keep) -> None:
    import mlflow

    mlflow.set_tracking_uri(backend.get('tracking_uri'))
    name = backend.get('exp_name') or 'Default'
    if mlflow.get_experiment_by_name(name) is None:
        mlflow.create_experiment(name, artifact_location=backend.get('artifact_location'))
    mlflow.set_experiment(name)
    with mlflow.start_run(run_id=run_id, run_name=backend.get('run_name') or folder.name) as run:
        keep(run.info.run_id)
        mlflow.set_tag('mlflow.note.content', (folder / 'table.md').read_text())  # the description, in Markdown
        # not log_table, which adds rows to those that are there
        for name, (columns, rows) in tables.items():
            mlflow.log_dict(dict(columns=columns, data=rows), f'{name}.json')
        files = [dict(path=f'{name}.json', type='table') for name in tables]
        mlflow.set_tag('mlflow.loggedArtifacts', json.dumps(files))
        mlflow.log_artifact(str(folder / 'index.html'))


_SENDERS = dict(wandb=_to_wandb, mlflow=_to_mlflow)
