"""The same work of torchvision's Mask R-CNN."""

import serve
import torch
from inputs import objects, pixels
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone


def build(settings, **options):
    # of five parts three are trained: as in mmdetection's config, which freezes the stem and the first stage
    backbone = resnet_fpn_backbone(backbone_name='resnet50', weights=None, trainable_layers=3)
    return MaskRCNN(backbone, 91, **options).to(settings['device'])


def train(settings):
    size = settings['height'], settings['width']
    torch.manual_seed(0)
    model = build(settings, min_size=min(size), max_size=max(size)).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-5, 0.9, weight_decay=1e-4)
    images, targets = [], []
    for seed in range(settings['images']):
        boxes, labels, masks = map(torch.from_numpy, objects(*size, seed=seed))
        images.append(torch.from_numpy(pixels(*size, seed)))
        targets.append(dict(boxes=boxes, labels=labels + 1, masks=masks))

    def step():
        torch.manual_seed(0)
        moved = [image.to(settings['device']).float() / 255 for image in images]
        wanted = [{name: value.to(settings['device']) for name, value in target.items()} for target in targets]
        with serve.mixed(settings):
            loss = sum(model(moved, wanted).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def infer(settings):
    model = build(settings)
    model.load_state_dict(torch.load(settings['weights'], weights_only=True))
    model.eval()

    @torch.no_grad()
    def detect():
        images = [
            decode_image(path, mode=ImageReadMode.RGB).to(settings['device']) / 255 for path in settings['images']
        ]
        with serve.mixed(settings):
            found = model(images)
        return [len(one['masks'] > 0.5) for one in found]

    return detect


if __name__ == '__main__':
    serve.main(lambda settings: globals()[settings['work']](settings))
