"""Reading what runs have logged."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean, pstdev
from typing import NamedTuple


class RunLog(NamedTuple):
    """One run's records, sorted by iteration; of a resumed run the later word counts."""

    train: list[dict]  # 'iter' (counted over the whole run), 'epoch', 'lr', 'time' (s), 'loss', ...
    val: list[dict]  # 'step' (the epoch, or the iteration of runs counted in iterations), 'coco/bbox_mAP', ...


class Curve(NamedTuple):
    """Holds the values of one key of a log."""

    kind: str  # 'train' or 'val'
    key: str  # as in the records, for instance 'coco/bbox_mAP'
    x: list[int]  # iterations (train); epochs, or iterations in a run without epochs (val)
    y: list[float]


def find_files(path: str | Path) -> list[Path]:
    """The files of JSON lines that belong to a run, in the order of its sessions.

    Args:
        path: a work dir, one session's folder in it, or one file.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    for pattern in ('*/vis_data/', 'vis_data/', ''):
        files = sorted(path.glob(f'{pattern}scalars.json'))
        if files:
            return files
        files = sorted(file for file in path.glob(f'{pattern}*.json') if file.stem[:8].isdigit())
        if files and (pattern or path.name == 'vis_data'):
            return files
    raise FileNotFoundError(
        f'{path}: no such log; give a work dir (with TIME/vis_data/scalars.json) or a file of JSON lines'
    )


def read_log(path: str | Path) -> RunLog:
    """Read a run's ``scalars.json``, or mmengine's ``TIME.json`` beside it, which is the same.

    Args:
        path: the work dir, whose sessions (one folder each) are put together, or one file of JSON lines.

    Raises:
        FileNotFoundError: there is no log. ValueError: a line that is not a record, named by file and number; a last
            line that was cut off is left out.
    """
    records: list[tuple[int, dict]] = []  # with the iteration that it was logged at or after
    for file in find_files(path):
        for record in _read_lines(file):
            if 'loss' in record:
                iteration = record['step'] if 'step' in record else record['iter']
                record['iter'] = iteration
                while records and records[-1][0] >= iteration:
                    records.pop()  # it came after the checkpoint that the run was resumed from
            else:
                iteration = records[-1][0] if records else 0
                record.setdefault('step', iteration)
            records.append((iteration, record))
    val = {record['step']: record for _, record in records if 'loss' not in record}
    return RunLog([record for _, record in records if 'loss' in record], [val[step] for step in sorted(val)])


def _read_lines(file: Path) -> list[dict]:
    records = []
    lines = file.read_bytes().decode(errors='replace').splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and line.startswith('{'):
                continue
            raise ValueError(f'{file}, line {number}: not a JSON record ({error}); expected a scalars.json') from None
        if not isinstance(record, dict):
            raise ValueError(f'{file}, line {number}: not a record but {line[:40]}; expected a scalars.json')
        if 'loss' in record and 'step' not in record and 'iter' not in record:
            raise ValueError(f"{file}, line {number}: no 'step' or 'iter' beside 'loss'; expected a scalars.json")
        for key, value in record.items():
            kinds = (
                int
                if key in ('step', 'iter', 'epoch')
                else (int, float)
                if key == 'time'
                else (int, float, str, type(None))
            )
            finite = isinstance(value, int) or key == 'time'  # a loss may be nan
            if not isinstance(value, kinds) or finite and not abs(value) < 2**63:
                raise ValueError(
                    f'{file}, line {number}: {key} must be a number, got {str(value)[:40]!r}; expected a scalars.json'
                )
        records.append(record)
    return records


def _numbers(records: list[dict], leave_out: tuple[str, ...]) -> list[str]:
    keys = dict.fromkeys(
        key
        for record in records
        for key, value in record.items()
        if isinstance(value, (int, float)) and key not in leave_out
    )
    return list(keys)


def find_keys(log: RunLog) -> dict[str, list[str]]:
    """The keys that can be plotted, by 'train' and 'val'."""
    return dict(
        train=_numbers(log.train, ('iter', 'epoch', 'step')), val=_numbers(log.val, ('step', 'time', 'data_time'))
    )


def get_curve(log: RunLog, key: str, start_epoch: int = 1, eval_interval: int = 1) -> Curve:
    """One key's values.

    Args:
        log: of :func:`read_log`.
        key: a key of the training records, or of the evaluations, these with or without what stands before the '/'.
        start_epoch: leave out what was logged in earlier epochs.
        eval_interval: of the evaluations only those at multiples of so many epochs.

    Raises:
        KeyError: there is no such key; the message names those that there are.
    """
    keys = find_keys(log)
    if key in keys['train']:
        # A run counted in iterations has no epochs to leave out.
        points = [
            (record['iter'], record[key])
            for record in log.train
            if key in record and record.get('epoch', start_epoch) >= start_epoch
        ]
        return Curve('train', key, *map(list, zip(*points))) if points else Curve('train', key, [], [])
    found = [name for name in keys['val'] if key in (name, name.rpartition('/')[2])]
    if not found:
        raise KeyError(
            f'no key {key!r}; training has {", ".join(keys["train"]) or "none"}; evaluation has '
            f'{", ".join(keys["val"]) or "none"}'
        )
    points = [
        (record['step'], record[found[0]])
        for record in log.val
        if record.get(found[0], -1) != -1  # COCO's word for "no such objects"
        and record['step'] >= start_epoch
        and record['step'] % eval_interval == 0
    ]
    return Curve('val', found[0], *map(list, zip(*points))) if points else Curve('val', found[0], [], [])


def counts_epochs(log: RunLog) -> bool:
    """Whether the run's evaluations are counted in epochs."""
    return not log.train or any('epoch' in record for record in log.train)


def epoch_times(log: RunLog, include_outliers: bool = False) -> dict[int, list[float]]:
    """Seconds per iteration that were logged in each epoch; all under 1 for a run counted in iterations.

    Args:
        log: of :func:`read_log`.
        include_outliers: also the first record of each epoch, in which workers start and kernels are chosen. It
            counts anyway where it is the only one.
    """
    epochs = defaultdict(list)
    for record in log.train:
        if 'time' in record:
            epochs[record.get('epoch', 1)].append(float(record['time']))
    return {epoch: times if include_outliers or len(times) == 1 else times[1:] for epoch, times in epochs.items()}


def time_summary(epochs: dict[int, list[float]]) -> dict:
    """Of :func:`epoch_times`: ``slowest`` and ``fastest`` (epoch, seconds per iteration), ``std`` over epochs, and
    ``mean`` over all records."""
    means = {epoch: fmean(times) for epoch, times in epochs.items()}
    slowest, fastest = max(means, key=means.get), min(means, key=means.get)
    return dict(
        slowest=(slowest, means[slowest]),
        fastest=(fastest, means[fastest]),
        std=pstdev(means.values()),
        mean=fmean(time for times in epochs.values() for time in times),
    )
