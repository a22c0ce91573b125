"""Convert Pascal VOC's annotations to COCO's format.

mmdet convert voc VOCdevkit/VOC2007 --split trainval --out voc07_trainval.json
"""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from mmdet.config.options import make_parser
from mmdet.datasets.coco_file import check_coco
from mmdet.io.atomic import write_atomic
from mmdet.run.progress import track

VOC_CLASSES = (
    'aeroplane',
    'bicycle',
    'bird',
    'boat',
    'bottle',
    'bus',
    'car',
    'cat',
    'chair',
    'cow',
    'diningtable',
    'dog',
    'horse',
    'motorbike',
    'person',
    'pottedplant',
    'sheep',
    'sofa',
    'train',
    'tvmonitor',
)


def read_image(path: Path, image_id: int, category_ids: dict[str, int]) -> tuple[dict, list[dict]]:
    """The COCO image and annotations of one VOC file; ValueError names the file and what is wrong."""
    try:
        root = ElementTree.parse(path).getroot()
        size = {key: int(root.findtext(f'size/{key}', '')) for key in ('width', 'height')}
        image = dict(id=image_id, file_name=root.findtext('filename') or f'{path.stem}.jpg', **size)
        annotations = []
        for item in root.iter('object'):
            name = item.findtext('name')
            if name not in category_ids:
                raise ValueError(f'category {name!r} is not among --classes {", ".join(category_ids)}')
            x1, y1, x2, y2 = (float(item.findtext(f'bndbox/{key}', '')) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
            # VOC counts pixels from 1 and means the last one to be inside.
            width, height = x2 - x1 + 1, y2 - y1 + 1
            difficult = int(item.findtext('difficult') or 0)
            annotations.append(
                dict(
                    image_id=image_id,
                    category_id=category_ids[name],
                    area=width * height,
                    bbox=[x1 - 1, y1 - 1, width, height],
                    iscrowd=difficult,
                    segmentation=[],
                )
            )
        check_coco(str(path), dict(images=[image], annotations=annotations, categories=[]))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file') from None
    except (ElementTree.ParseError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: not a VOC annotation ({error})') from None
    return image, annotations


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('root', type=Path, help='folder with Annotations/ and ImageSets/Main/')
    parser.add_argument('--split', required=True, help='name of a list in ImageSets/Main, for instance trainval')
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write')
    parser.add_argument('--classes', nargs='+', default=VOC_CLASSES, help="default: VOC's twenty")
    args = parser.parse_args(argv)
    listing = args.root / 'ImageSets' / 'Main' / f'{args.split}.txt'
    if not listing.is_file():
        raise FileNotFoundError(f'{listing}: no such file; expected the list of the images of split {args.split!r}')
    category_ids = {name: i for i, name in enumerate(args.classes, 1)}
    images, annotations = [], []
    lines = [line for line in map(str.strip, listing.read_text(errors='surrogateescape').splitlines()) if line]
    for image_id, line in enumerate(track(lines, 'Reading annotations'), 1):
        image, own = read_image(args.root / 'Annotations' / f'{line.split()[0]}.xml', image_id, category_ids)
        images.append(image)
        annotations += own
    for i, annotation in enumerate(annotations, 1):
        annotation['id'] = i
    categories = [dict(id=i, name=name) for name, i in category_ids.items()]
    write_atomic(json.dumps(dict(images=images, annotations=annotations, categories=categories)).encode(), args.out)
    print(f'{args.out}: {len(images)} images, {len(annotations)} objects')
