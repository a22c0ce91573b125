"""Whole trainings of one layer against those recorded before the layer was rewritten, in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from reference import norm_trajectories as reference
from reference.corner_convs import CONVS

DATA = Path(__file__).parents[1] / 'data'
RECORDED = np.load(DATA / 'norm_trajectories.npz')


@pytest.mark.parametrize('name', reference.SETTINGS)
@pytest.mark.parametrize('kind', CONVS)
def test_outputs_gradients_and_windows_are_those_recorded(kind, name):
    for step, (row, want) in enumerate(zip(reference.trajectory(kind, name), RECORDED[f'{kind}: {name}'])):
        want = want[~np.isnan(want)]
        assert len(row) == len(want)
        np.testing.assert_allclose(row, want, rtol=1e-9, atol=1e-9, err_msg=f'step {step}')


def test_training_goes_on_from_a_recorded_window():
    for name, saved in torch.load(DATA / 'norm_windows.pth', weights_only=True).items():
        conv, norm = reference.layers('3x3', reference.SETTINGS[name])
        conv.load_state_dict(saved['conv'])
        norm.load_state_dict(saved['norm'])
        norm.load_window_state(saved['window'])
        rows = reference.train(conv, norm, '3x3', False, range(6, 10))
        for row, want in zip(rows, saved['next']):
            np.testing.assert_allclose(row, want, rtol=1e-9, atol=1e-9, err_msg=name)
