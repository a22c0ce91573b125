"""NMS by class against plain loops."""
import pytest
import torch
from torchvision.ops import box_iou

from mmdet.models.layers import batched_nms, multiclass_nms


def test_multiclass_nms_equals_plain_loops():
    torch.manual_seed(0)
    corner = torch.rand(40, 3, 2) * 30
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(40, 3, 2)], 2).flatten(1)
    scores = torch.rand(40, 4).softmax(1)
    got, labels = multiclass_nms(boxes, scores, 0.2, dict(type='nms', iou_threshold=0.5), 15)
    kept = []
    pairs = [(scores[i, c].item(), c, boxes[i, 4 * c:4 * c + 4]) for i in range(40) for c in range(3)]
    for score, c, box in sorted((p for p in pairs if p[0] > 0.2), key=lambda p: -p[0]):
        if all(c != k or box_iou(box[None], b[None]) <= 0.5 for _, k, b in kept):
            kept.append((score, c, box))
    kept = kept[:15]
    assert labels.tolist() == [k[1] for k in kept]
    torch.testing.assert_close(got, torch.stack([torch.cat([k[2], torch.tensor([k[0]])]) for k in kept]))
    assert multiclass_nms(boxes, scores, 2., dict(type='nms', iou_threshold=0.5))[0].shape == (0, 5)
    with pytest.raises(ValueError, match='voting'):
        batched_nms(boxes[:, :4], scores[:, 0], labels, dict(type='voting'))
