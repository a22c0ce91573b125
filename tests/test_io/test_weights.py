"""mmdet/io/weights.py, and check_state_dict, which raises what it says."""

import pytest
import torch
from torch import nn

from mmdet.io.checkpoint import check_state_dict
from mmdet.io.weights import find_differences


class Head(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc_cls = nn.Linear(3, classes + 1)
        self.fc_reg = nn.Linear(3, 4 * classes)


class Net(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.roi_head = nn.ModuleDict(
            dict(bbox_head=Head(classes), mask_head=nn.ModuleDict(dict(conv_logits=nn.Conv2d(2, classes, 1))))
        )


def complaint(weights, **kwargs):
    with pytest.raises(ValueError) as error:
        check_state_dict(Net(), dict(state_dict=weights), 'x.pth', **kwargs)
    return str(error.value)


def test_same_names_and_shapes_fit_with_or_without_counters_and_wrapper():
    weights = Net().state_dict()
    for change in (lambda key: key, 'module.{}'.format):
        changed = {change(key): value for key, value in weights.items()}
        fitting = check_state_dict(Net(), dict(state_dict=changed), 'x.pth')
        assert list(fitting) == list(weights)
        assert list(check_state_dict(Net(), changed, 'x.pth')) == list(weights)  # torchvision's and older ones
    counter = 'backbone.1.num_batches_tracked'
    assert counter in weights
    assert counter not in check_state_dict(Net(), {k: v for k, v in weights.items() if k != counter}, 'x.pth')


def test_table_of_modules():
    weights = Net(80).state_dict()
    del weights['backbone.1.bias'], weights['backbone.1.weight']
    weights.update({'neck.convs.0.weight': torch.ones(1), 'neck.convs.1.weight': torch.ones(1), 'x': torch.ones(1)})
    assert (
        complaint(weights)
        == """\
checkpoint x.pth: the checkpoint is of another model than the config's:
              keys  module              for instance
  missing        2  backbone.1          weight
  unexpected     2  neck.convs          0.weight
  unexpected     1  x                   x
  mismatched     4  roi_head.bbox_head  fc_cls.weight (81, 3), the model has (3, 3)
  mismatched     2  roi_head.mask_head  conv_logits.weight (80, 2, 1, 1), the model has (2, 2, 1, 1)
It looks like another number of classes: the checkpoint's roi_head.bbox_head.fc_cls and roi_head.mask_head.conv_logits \
of 80, the model's of 2. Set num_classes in the config."""
    )


def test_long_table_is_cut():
    text = complaint({**Net().state_dict(), **{f'a{i}.b.c': torch.ones(1) for i in range(40)}})
    assert text.count('\n') == 14 and text.endswith('and 28 more modules')


@pytest.mark.parametrize(
    'change, says',
    [
        (lambda w: {f'model.{k}': v for k, v in w.items()}, "Every key of the checkpoint begins with 'model.'"),
        (
            lambda w: {k.removeprefix('backbone.'): v for k, v in w.items() if k.startswith('backbone.')},
            'weights of a backbone alone; set model.backbone.init_cfg',
        ),
        (lambda w: {**w, **{'ema_' + k.replace('.', '_'): v for k, v in w.items()}}, 'EMA hook'),
        (lambda w: {'backbone.body.conv1.weight': torch.ones(1)}, 'torchvision detector; mmdet convert torchvision'),
        (lambda w: {'backbone.bottom_up.stem.conv1.weight': torch.ones(1)}, 'detectron2 detector, which cannot'),
    ],
)
def test_reason_is_given(change, says):
    assert says in complaint(change(Net().state_dict()))


def test_no_reason_is_given_where_there_is_none():
    weights = Net().state_dict()
    weights['backbone.0.weight'] = torch.ones(4, 5, 1, 1)
    weights['roi_head.bbox_head.fc_cls.weight'] = torch.ones(3, 9)  # as many classes, other features
    last = complaint(weights).splitlines()[-1]
    assert last.startswith('  mismatched') and last.endswith('fc_cls.weight (3, 9), the model has (3, 3)')


def test_training_may_start_from_a_part():
    weights = {**Net(80).state_dict(), 'neck.w': torch.ones(1)}
    assert check_state_dict(Net(), weights, 'x.pth', partly=True).keys() == weights.keys()
    # Counters of batches fit everything and are no weights.
    counters = {key: value for key, value in weights.items() if key.endswith('tracked')}
    assert counters and not find_differences(Net(), {**counters, 'a.b': torch.ones(1)}).fits
    assert 'unexpected     1  a ' in complaint({**counters, 'a.b': torch.ones(1)}, partly=True)


@pytest.mark.parametrize(
    'checkpoint, says',
    [
        (dict(model={}, optimizer={}), 'its keys are model, optimizer'),
        (dict(), 'its keys are none'),
        (dict(state_dict=dict(a=3)), "no weights under the key 'state_dict'"),
        (dict(state_dict=None), 'no weights'),
    ],
)
def test_checkpoint_without_weights(checkpoint, says):
    with pytest.raises(ValueError, match=f'x.pth.*{says}'):
        check_state_dict(Net(), checkpoint, 'x.pth')
