"""Make the synthetic shapes set: images of circles, squares and triangles in COCO's format.

mmdet data shapes --out data/shapes
"""

import json
import shutil
import tempfile
from pathlib import Path

import cv2

from mmdet.datasets.shapes import SHAPES, make_image
from mmdet.options import make_parser, whole
from mmdet.run.progress import track

MADE = {'annotations', 'train', 'val'}


def make_split(
    folder: Path, name: str, number: int, size: int, first_seed: int, background: tuple[float, float]
) -> None:
    """Write images NAME/*.png and annotations/NAME.json below ``folder``."""
    (folder / name).mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for i in track(range(number), f'Making {name} images'):
        image, objects = make_image(first_seed + i, size, background=background)
        file_name = f'{i:06d}.png'
        if not cv2.imwrite(str(folder / name / file_name), image):
            raise OSError(f'{folder / name / file_name}: cannot be written')
        images.append(dict(id=i + 1, file_name=file_name, height=size, width=size))
        for item in objects:
            annotations.append(
                dict(id=len(annotations) + 1, image_id=i + 1, category_id=item.pop('category') + 1, iscrowd=0, **item)
            )
    categories = [dict(id=i, name=shape) for i, shape in enumerate(SHAPES, 1)]
    (folder / 'annotations' / f'{name}.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories))
    )


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('--out', type=Path, required=True, help='folder to make')
    parser.add_argument('--train', type=whole(1), default=400, help='training images')
    parser.add_argument('--val', type=whole(1), default=100, help='validation images')
    parser.add_argument('--size', type=whole(32), default=128, help='sides in pixels')
    parser.add_argument(
        '--background',
        type=float,
        nargs=2,
        default=(90, 165),
        metavar=('LEAST', 'GREATEST'),
        help="of the background's colours, 0 to 255 (default: 90 165); with 0 255 images differ much",
    )
    parser.add_argument('--seed', type=whole(0), default=0, help='the same seed gives the same set')
    parser.add_argument('--force', action='store_true', help='replace the folder if it is there')
    args = parser.parse_args(argv)
    if not 0 <= args.background[0] <= args.background[1] <= 255:
        parser.error(
            f'--background {" ".join(map(str, args.background))}: must be two numbers from 0 to 255, the lesser first'
        )
    if args.out.exists() and not args.force:
        raise FileExistsError(f'--out {args.out}: is there already; --force replaces it')
    others = sorted({path.name for path in args.out.iterdir()} - MADE) if args.out.is_dir() else []
    if others:
        raise FileExistsError(
            f'--out {args.out}: holds {others[0]!r}, so it is no shapes set; --force replaces only one'
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix='.shapes') as temporary:
        folder = Path(temporary) / 'set'
        (folder / 'annotations').mkdir(parents=True)
        # Seeds of different sets and splits do not meet.
        make_split(folder, 'train', args.train, args.size, args.seed * 10**7, args.background)
        make_split(folder, 'val', args.val, args.size, args.seed * 10**7 + 5 * 10**6, args.background)
        if args.out.exists():
            shutil.rmtree(args.out)
        folder.rename(args.out)
    print(f'{args.out}: {args.train} training and {args.val} validation images')
