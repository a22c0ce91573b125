"""Write a detector for other programs, and compare what it finds with what the model finds.

mmdet export CONFIG CHECKPOINT --format onnx --dynamic

The file takes an image (H, W, 3) of uint8 in the order blue, green, red, resized as the config's test pipeline does it,
and returns boxes, scores, labels and, of a mask head, the masks at its own resolution. docs/deploy.md uses it.
"""

import copy
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from torch.nn.modules.utils import _pair

from mmdet.apis import init_detector
from mmdet.apis.inference import build_pipeline, describe
from mmdet.config import inner_dataset, step_name
from mmdet.io.atomic import replace_when_done
from mmdet.options import add_config, add_trust_checkpoint, make_parser, whole
from mmdet.registry import DATASETS
from mmdet.utils import get_test_pipeline_cfg
from mmdet.version import __version__

from .check import TOLERANCES, compare, exported_finds, model_finds, table
from .folding import fix_padding, fold_norms
from .formats import FORMATS, load_exported, need, write_exported
from .graph import DetectorGraph


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint, or the name of a config with published weights')
    parser.add_argument('--format', choices=FORMATS, default='onnx', help='(default: onnx)')
    parser.add_argument('--out', metavar='FILE', help='(default: the checkpoint with the ending of the format)')
    parser.add_argument('--fp16', action='store_true', help='weights, convolutions and linear layers in float16')
    parser.add_argument('--dynamic', action='store_true', help='for images of any size (default: of one, --shape)')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=whole(1),
        metavar=('HEIGHT', 'WIDTH'),
        help="without --dynamic, the size that images are stretched to (default: the test pipeline's scale)",
    )
    parser.add_argument(
        '--images',
        nargs='+',
        metavar='IMG',
        help="to compare with (default: two of the config's test set, of different size)",
    )
    parser.add_argument('--device', default='cpu', help="'cpu', 'cuda:0', ... (default: cpu)")
    add_trust_checkpoint(parser)
    args = parser.parse_args(argv)
    if args.dynamic and args.shape:
        parser.error('--dynamic takes images of any size, --shape of one; leave out either')
    return args


def test_pipeline(cfg, shape, dynamic):
    """The test pipeline, and its Resize, which without ``dynamic`` stretches to ``shape`` (height, width) or its scale.

    Raises:
        ValueError: the pipeline has not one Resize, or that has no scale where one is needed.
    """
    steps = copy.deepcopy(get_test_pipeline_cfg(cfg))
    found = [step for step in steps if step_name(step) == 'Resize']
    if len(found) != 1:
        raise ValueError(f'test_dataloader.dataset.pipeline: must have one Resize for export, has {len(found)}')
    resize = found[0]
    if not dynamic:
        scale = shape[::-1] if shape else resize.get('scale')
        if not isinstance(scale, (tuple, list)):
            raise ValueError(
                f'test_dataloader.dataset.pipeline: Resize has no scale (width, height) but {dict(resize)}; give '
                '--shape HEIGHT WIDTH, or --dynamic'
            )
        resize.pop('scale_factor', None)
        resize.update(scale=tuple(scale), keep_ratio=False)
    own = copy.deepcopy(cfg)
    own.test_dataloader = dict(dataset=dict(pipeline=steps))
    return build_pipeline(own), resize


def find_images(cfg, given):
    """Two images or more, by name, (H, W, 3) uint8: those given, or of the config's test set; of different sizes."""
    if given:
        images = {str(path): read(path) for path in given}
    else:
        images = {path: read(path) for path in test_images(cfg)}
    if not images:
        print_log(
            "export: the config's test set is not here, so noise is what the models are compared with; they may find "
            'nothing in it: give images with --images',
            'current',
            logging.WARNING,
        )
        noise = np.random.default_rng(0).integers(0, 255, (15, 20, 3), dtype=np.uint8)
        images['noise'] = cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    if len({image.shape for image in images.values()}) == 1:
        name, image = next(iter(images.items()))
        images[f'{name} (part)'] = np.ascontiguousarray(image[:, : image.shape[1] * 3 // 4])
    return images


def test_images(cfg):
    """Paths of the first image of the config's test set, and of the first one of another size; [] without the set."""
    own = inner_dataset((cfg.get('test_dataloader') or {}).get('dataset') or {})
    try:
        dataset = DATASETS.build(dict(own, pipeline=[]))
    except (FileNotFoundError, KeyError, TypeError):  # not here, or there is none
        return []
    found: dict[tuple[int, int], str] = {}
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        if os.path.isfile(info['img_path']):
            found.setdefault((info['width'], info['height']), info['img_path'])
        if len(found) == 2:
            break
    return list(found.values())


def read(path):
    describe(path)  # raises for what is no file
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'image {path}: cannot be read')
    return image


def about(model, resize, half):
    """What a program has to know of the graph, as is written into it."""
    scale, factor = resize.get('scale'), resize.get('scale_factor')
    return dict(
        classes=list(model.dataset_meta['classes']),
        scale=None if scale is None else list(_pair(scale)),
        scale_factor=None if factor is None else list(_pair(factor)),
        keep_ratio=bool(resize.get('keep_ratio', False)),
        mask_thr_binary=model.test_cfg['rcnn'].get('mask_thr_binary') if model.with_mask else None,
        dtype='float16' if half else 'float32',
        config=os.path.basename(model.cfg.filename or ''),
        mmdet=__version__,
    )


def export(model, images, path, kind, half=False, dynamic=False, shape=None):
    """Write a detector for other programs, if what it finds there is what the model finds.

    Args:
        model: of :func:`.init_detector`; stays as it is.
        images: by name, (H, W, 3) uint8 in the order BGR.
        path: of the file.
        kind: a key of :data:`FORMATS`.
        half, dynamic, shape: ``--fp16``, ``--dynamic``, ``--shape``.

    Returns:
        The differences of the images, as a table, and the number of norms that became part of a convolution.

    Raises:
        ValueError: a model that cannot be exported; or detections differ, and nothing is written.
    """
    pipeline, resize = test_pipeline(model.cfg, shape, dynamic)
    samples = {name: pipeline(dict(img=image, img_id=0)) for name, image in images.items()}
    device = next(model.parameters()).device
    own = copy.deepcopy(model)
    folded = fold_norms(own, torch.zeros(1, 3, 64, 64, device=device))
    divisor = own.data_preprocessor.pad_size_divisor
    if fix_padding(own.backbone, divisor) and dynamic:
        raise ValueError(
            f'export: --dynamic: the paddings of this backbone depend on the size of its input, which '
            f'model.data_preprocessor.pad_size_divisor={divisor} does not make a multiple of its strides; 32 would'
        )
    graph = DetectorGraph(own, half).eval()
    inputs = {name: sample['inputs'].permute(1, 2, 0).contiguous().to(device) for name, sample in samples.items()}
    tolerance, rcnn = TOLERANCES[half], model.test_cfg['rcnn']
    with replace_when_done(path) as temporary:
        example = next(iter(inputs.values()))
        write_exported(graph, example, temporary, kind, dynamic, about(model, resize, half))
        run = load_exported(temporary, kind, device)
        differences = []
        for name, sample in samples.items():
            theirs = exported_finds(run, inputs[name], sample['data_samples'], rcnn.get('mask_thr_binary', 0.5))
            differences.append(compare(name, model_finds(model, sample), theirs, rcnn, tolerance.margin))
        text = table(differences, tolerance)
        for one in differences:
            if one.too_large(tolerance):
                raise ValueError(
                    f'export: {kind}, {one.name}: {", ".join(one.too_large(tolerance))} are not those of the model; '
                    f'nothing is written\n{text}'
                )
    return text, folded


def main(argv=None):
    args = parse_args(argv)
    if args.format == 'onnx':
        need('onnx', 'onnxscript', 'onnxruntime')
    model = init_detector(
        args.config, args.checkpoint, args.device, args.cfg_options, trust_checkpoint=args.trust_checkpoint
    )
    images = find_images(model.cfg, args.images)
    path = args.out or f'{Path(args.checkpoint).stem}{FORMATS[args.format]}'
    text, folded = export(model, images, path, args.format, args.fp16, args.dynamic, args.shape)
    print(text)
    print(f'norms folded into convolutions: {folded}')
    print(f'exported: {path} ({os.path.getsize(path) / 2**20:.1f} MiB)')
