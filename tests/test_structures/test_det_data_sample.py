"""DetDataSample's fields."""

import pytest
import torch
from mmengine.structures import InstanceData

from mmdet.structures import DetDataSample

FIELDS = ('gt_instances', 'ignored_instances', 'pred_instances', 'proposals')


@pytest.mark.parametrize('name', FIELDS)
def test_field(name):
    sample = DetDataSample(metainfo=dict(img_id=7))
    assert name not in sample
    setattr(sample, name, InstanceData(bboxes=torch.rand(3, 4)))
    assert name in sample and sample.keys() == [name] and len(getattr(sample, name)) == 3
    assert set(sample.to_dict()) == {'img_id', name}
    delattr(sample, name)
    assert name not in sample


@pytest.mark.parametrize('name', FIELDS)
def test_only_instances(name):
    with pytest.raises(AssertionError, match='InstanceData'):
        setattr(DetDataSample(), name, torch.rand(3, 4))


def test_to_converts_tensors_and_new_keeps_fields():
    sample = DetDataSample(metainfo=dict(img_shape=(4, 5)), gt_instances=InstanceData(bboxes=torch.rand(3, 4)))
    assert sample.to(torch.float64).gt_instances.bboxes.dtype == torch.float64
    assert sample.clone().img_shape == (4, 5) and len(sample.clone().gt_instances) == 3
