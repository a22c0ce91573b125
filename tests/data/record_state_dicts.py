"""Names and shapes of every parameter and buffer of mmdetection's models, by mmdetection itself.

    python tests/data/record_state_dicts.py FOLDER

in a Python that has mmdetection (recorded with onedl-mmdetection 3.5.1) and not this project, from another folder, with
FOLDER its ``configs`` (``mmdet/.mim/configs`` where it is installed), writes ``mmdet3_state_dicts.json.gz`` beside this
file: ``models``, lists of ``[name, shape]``, and ``configs``, which of them each config builds.
"""
import gzip
import json
import sys
from pathlib import Path

import torch
from mmengine.config import Config

from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

FOLDERS = ('faster_rcnn', 'mask_rcnn', 'gn', 'gn+ws', 'scratch')


def main(root: Path) -> None:
    register_all_modules()
    models, configs = [], {}
    for folder in FOLDERS:
        for path in sorted((root / folder).glob('*.py')):
            with torch.device('meta'):
                model = MODELS.build(Config.fromfile(str(path)).model)
            entry = [[name, list(tensor.shape)] for name, tensor in sorted(model.state_dict().items())]
            if entry not in models:
                models.append(entry)
            configs[f'{folder}/{path.name}'] = models.index(entry)
    text = json.dumps(dict(configs=configs, models=models), separators=(',', ':'))
    (Path(__file__).parent / 'mmdet3_state_dicts.json.gz').write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
