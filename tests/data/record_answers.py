"""Record mmdetection 3.x's answers to the cases of tests/reference/mmdet3_cases.py.

In an environment that has mmdetection 3.x and not this project (recorded with onedl-mmdetection 3.5.1, torch 2.14.1,
torchvision's RoIAlign and NMS in place of the compiled operators), from a folder outside this checkout:

    python CHECKOUT/tests/data/record_answers.py

writes mmdet3_pipelines.json.gz, mmdet3_predictions.json.gz, mmdet3_losses.json.gz and mmdet3_subclasses.json.gz beside
this file.
"""
import gzip
import json
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from reference import mmdet3_cases as cases  # noqa: E402
from reference import mmdet3_subclasses as subclasses  # noqa: E402


def write(name: str, answers: dict) -> None:
    import mmdet
    if Path(mmdet.__file__).is_relative_to(FOLDER.parents[1]):
        sys.exit(f'{mmdet.__file__}: this project must not record its own answers; run from another folder')
    about = dict(command='python tests/data/record_answers.py', mmdet=mmdet.__version__, torch=torch.__version__)
    text = json.dumps(dict(about=about, answers=answers), default=lambda value: value.item(), separators=(',', ':'))
    (FOLDER / f'mmdet3_{name}.json.gz').write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == '__main__':
    pipelines = {f'{name}.{seed}': cases.pipeline_answer(name, seed)
                 for name in cases.PIPELINES for seed in cases.SEEDS}
    pipelines.update({f'preprocessor.{name}': cases.preprocessor_answer(name) for name in cases.PREPROCESSORS})
    pipelines.update({f'mix.{name}.{seed}': cases.mix_answer(name, seed) for name in cases.MIXES for seed in cases.MIX_SEEDS})
    pipelines.update({f'tta.{seed}': cases.tta_answer(seed) for seed in cases.SEEDS})
    write('pipelines', pipelines)
    write('predictions', {name: cases.prediction_answer(name, masks=name in cases.WITH_MASKS)
                          for name in cases.PREDICTIONS})
    write('subclasses', subclasses.answers())
    write('losses', {name: cases.losses_answer(name) for name in cases.LOSSES})
