"""Reading what runs have logged."""
import json
from pathlib import Path
from typing import NamedTuple, Union


class RunLog(NamedTuple):
    """One run's records, sorted by iteration; of a resumed run the later word counts."""
    train: list[dict]  # 'iter' (counted over the whole run), 'epoch', 'lr', 'time' (s), 'loss', ...
    val: list[dict]  # 'step' (the epoch, or the iteration of runs counted in iterations), 'coco/bbox_mAP', ...


def read_log(path: Union[str, Path]) -> RunLog:
    """Read a run's ``scalars.json``.

    Args:
        path: the work dir, whose sessions (one folder each) are put together, or one file of JSON lines.

    Raises:
        FileNotFoundError: there is no log. ValueError: a line that is not JSON, named by file and number; a last line
            that was cut off is left out.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'{path}: no such log; give a work dir (with TIME/vis_data/scalars.json) or a file of '
                                'JSON lines')
    train: dict[int, dict] = {}
    val: dict[int, dict] = {}
    iteration = 0
    for file in files:
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError('not a JSON object')
            except ValueError as error:
                if number == len(lines):
                    continue
                raise ValueError(f'{file}, line {number}: not a JSON record: {error}') from error
            if 'loss' in record:
                iteration = int(record.get('step', record['iter']))
                for later in [key for key in train if key > iteration]:
                    train.pop(later)  # it came after the checkpoint that the run was resumed from
                train[iteration] = {**record, 'iter': iteration}
            else:
                val[int(record.get('step', iteration))] = record
    return RunLog([train[key] for key in sorted(train)], [val[key] for key in sorted(val)])
