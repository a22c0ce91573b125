"""Images, boxes and masks after the transforms equal mmdetection 3.x's bit for bit."""

import gzip
import json
from pathlib import Path

import pytest
from reference import mmdet3_cases as cases

ANSWERS = json.loads(gzip.decompress((Path(__file__).parents[1] / 'data' / 'mmdet3_pipelines.json.gz').read_bytes()))[
    'answers'
]


def plain(answer: dict) -> dict:
    return json.loads(json.dumps(answer, default=lambda value: value.item()))


@pytest.mark.parametrize('name', cases.PIPELINES)
def test_pipeline(name):
    answers = [plain(cases.pipeline_answer(name, seed)) for seed in cases.SEEDS]
    assert answers == [ANSWERS[f'{name}.{seed}'] for seed in cases.SEEDS]


@pytest.mark.parametrize('name', cases.PREPROCESSORS)
def test_preprocessor(name):
    assert plain(cases.preprocessor_answer(name)) == ANSWERS[f'preprocessor.{name}']


@pytest.mark.parametrize('name', cases.MIXES)
def test_several_images(name):
    answers = [plain(cases.mix_answer(name, seed)) for seed in cases.MIX_SEEDS]
    assert answers == [ANSWERS[f'mix.{name}.{seed}'] for seed in cases.MIX_SEEDS]


def test_answers_differ_where_they_should():
    """The random transforms drew different things for different seeds, so equal answers say something."""
    for name in (
        'choice',
        'between',
        'jitter',
        'lsj',
        'crop_absolute',
        'directions',
        'photometric',
        'expand',
        'min_iou',
        'affine',
        'mix.boxes',
    ):
        assert len({str(ANSWERS[f'{name}.{seed}']) for seed in cases.SEEDS}) > 1
