"""These tests are of what mmdet puts in the place of mmengine's reading and writing."""

import pytest

from mmdet.run.prepare import setup


@pytest.fixture(scope='session', autouse=True)
def installed():
    setup()
