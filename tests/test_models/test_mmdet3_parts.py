"""Losses, anchors, coder, assigner, samplers, NMS, RPN and RoI head equal mmdetection 3.x's (recorded answers)."""

from pathlib import Path

import numpy as np
import pytest
from reference import mmdet3_parts as parts

RECORDED = parts.unpack(dict(np.load(Path(__file__).parents[1] / 'data/mmdet3_parts.npz')))


@pytest.mark.parametrize('group', parts.GROUPS)
def test_equal(group):
    """Whole numbers exactly, others within 1e-5 relative to the largest of their array."""
    answers = parts.answers(group)
    assert {f'{group}.{key}' for key in answers} == {key for key in RECORDED if key.startswith(f'{group}.')}
    for key, answer in answers.items():
        expected = RECORDED[f'{group}.{key}']
        assert answer.shape == expected.shape and answer.dtype == expected.dtype, key
        if np.issubdtype(expected.dtype, np.floating):
            assert np.isfinite(answer).all(), key
            largest = np.abs(expected).max(initial=0)
            np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5 * largest + 1e-7, err_msg=key)
        else:
            np.testing.assert_array_equal(answer, expected, err_msg=key)
