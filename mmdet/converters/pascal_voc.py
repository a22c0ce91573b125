"""Convert Pascal VOC's annotations to COCO's format.

    mmdet convert voc VOCdevkit/VOC2007 --split trainval --out voc07_trainval.json

ROOT has Annotations/, JPEGImages/ (or images/) and ImageSets/Main/SPLIT.txt; without --split all annotations are
converted. Images and annotations may lie in ROOT itself, too. Sizes that are missing are read from the images. Several
ROOTs make one file.
"""

import json
import os
import posixpath
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path, PureWindowsPath

from PIL import Image

from mmdet.datasets.coco_file import LARGEST, check_coco
from mmdet.io.atomic import write_atomic
from mmdet.options import make_parser
from mmdet.run.progress import track
from mmdet.words import nearest

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


#: what tools write for difficult
FLAGS = {'': 0, '0': 0, 'false': 0, 'no': 0, 'none': 0, 'unspecified': 0, '1': 1, 'true': 1, 'yes': 1, 'difficult': 1}


class Images:
    """Finds the images of a folder by name, whatever the case and, where only the stem is known, the extension."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endings = {ending.lower() for ending in Image.registered_extensions()}
        self.by_path: dict[str, list[str]] = defaultdict(list)
        self.by_name: dict[str, list[str]] = defaultdict(list)
        found = [path for path in _visible(folder) if path.suffix.lower() in self.endings and path.is_file()]
        for name in (path.relative_to(folder).as_posix() for path in found):
            for index, known in ((self.by_path, name), (self.by_name, posixpath.basename(name))):
                index[self._key(known)].append(name)
                index[self._key(self._stem(known))].append(name)

    def _stem(self, name: str) -> str:
        stem, ending = posixpath.splitext(name)
        return stem if ending.lower() in self.endings else name

    @staticmethod
    def _key(name: str) -> str:
        return unicodedata.normalize('NFC', name).casefold()

    def find(self, own: str, said: str, path: str) -> str | None:
        """Return an image's name in the folder, None if it is not there.

        Args:
            own: the annotation file's path below its folder, without ``.xml``.
            said, path: the annotation's ``<filename>`` and ``<path>``.

        Raises:
            ValueError: it may be one of several.
        """
        bare = posixpath.basename(said)
        for index, name in (
            (self.by_path, said),
            (self.by_path, posixpath.join(posixpath.dirname(own), bare)),
            (self.by_path, own),
            (self.by_path, self._stem(said)),
            (self.by_name, bare),
            (self.by_name, posixpath.basename(own)),
            (self.by_name, posixpath.basename(path)),
        ):
            found = index.get(self._key(name), ())
            if len(found) > 1:
                found = [one for one in found if name in (one, posixpath.basename(one))] or found
            if len(found) > 1:
                found = [one for one in found if posixpath.basename(one) == bare] or found
            if len(found) > 1:
                raise ValueError(f'its image may be {found[0]} or {found[1]} in {self.folder}; correct <filename>')
            if found:
                return found[0]
        return None


def _visible(folder: Path) -> list[Path]:
    """All below it, but for what is hidden, as a Mac's copies of names are."""
    return [path for path in sorted(folder.rglob('*')) if not path.name.startswith('.')]


class Voc:
    """One ROOT: its annotation files and its images."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f'{root}: no such folder; expected one with Annotations/ and JPEGImages/')
        self.root = root
        folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
        self.annotations = folders.get('annotations', root)
        self.images = Images(folders.get('jpegimages') or folders.get('images') or root)
        if not self.images.by_path and self.annotations != root:
            self.images.folder = root / 'JPEGImages'  # where they will be

    def files(self, split: str | None) -> list[Path]:
        """The annotation files of a split, or all.

        Raises:
            FileNotFoundError: no list of this split, an annotation file that it names, or none at all.
        """
        if split is None:
            found = [path for path in _visible(self.annotations) if path.suffix.lower() == '.xml']
            if not found:
                raise FileNotFoundError(f'{self.annotations}: no annotation files (.xml)')
            return found
        folder = self.root / 'ImageSets' / 'Main'
        listing = folder / f'{split}.txt'
        if not listing.is_file():
            known = sorted(path.stem for path in folder.glob('*.txt'))
            raise FileNotFoundError(
                f'{listing}: no such file; expected the list of the images of split {split!r}'
                + (f'; there are {", ".join(known[:20])}' if known else '; without --split all images are converted')
            )
        lines = listing.read_text('utf-8-sig', errors='surrogateescape').splitlines()
        return list(dict.fromkeys(self._file(line.strip(), listing) for line in lines if line.strip()))

    def _file(self, line: str, listing: Path) -> Path:
        """Of a line: a name, maybe in quotes, with a folder and an ending, and with the flag of a class."""
        name = re.sub(r'\s+-?\d+$', '', line).strip('"').replace('\\', '/')
        stem = posixpath.splitext(name)[0]
        for each in (line, name, stem, posixpath.basename(name), posixpath.basename(stem)):
            for ending in ('.xml', '.XML'):
                if (self.annotations / (each + ending)).is_file():
                    return self.annotations / (each + ending)
        raise FileNotFoundError(f'{self.annotations / name}.xml: no such file; {listing} names it')


def read_image(
    voc: Voc, path: Path, image_id: int, category_ids: dict[str, int], notes: dict[str, list[str]]
) -> tuple[dict, list[dict]] | None:
    """The COCO image and annotations of one VOC file; None where its image is missing.

    Args:
        notes: what is left out and corrected, to which it adds where.

    Raises:
        FileNotFoundError: no such file. ValueError: names the file and what is wrong with it.
    """
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != 'annotation':
            raise ValueError(f'expected <annotation>, found <{root.tag}>')
        said = _text(root, 'filename')
        own = path.relative_to(voc.annotations).with_suffix('').as_posix()
        name = said and posixpath.normpath(said.replace('\\', '/'))
        if voc.images.by_path:
            found = voc.images.find(own, name, _text(root, 'path').replace('\\', '/'))
            if found is None:
                notes['annotations without an image left out'].append(f'{path}: {said or own}')
                return None
            name = found
        elif not name or PureWindowsPath(name).anchor:  # of the machine where it was annotated
            name = posixpath.basename(name) or f'{own}.jpg'
        if said and name != said:
            notes['file names corrected'].append(f'{path}: {said} is {name}')
        size = [_whole(_text(root, f'size/{key}')) for key in ('width', 'height')]
        if not all(size):
            if not voc.images.by_path:
                raise ValueError(f'size: no width and height, and no images in {voc.root} to take them from')
            size = image_size(voc.images.folder / name)
            notes['sizes taken from the image'].append(str(path))
        image = dict(id=image_id, file_name=name, width=size[0], height=size[1])
        annotations = []
        for number, item in enumerate(root.iter('object'), 1):
            category = _text(item, 'name')
            place = f'{path}, object {number} {category!r}'
            if category not in category_ids:
                raise ValueError(
                    f'category {category!r} is not among --classes {", ".join(category_ids)}'
                    f'{nearest(category, category_ids)}'
                )
            difficult = FLAGS.get(_text(item, 'difficult').lower())
            if difficult is None:
                raise ValueError(f'object {number}: difficult must be 0 or 1, got {_text(item, "difficult")!r}')
            if item.find('bndbox') is None:
                notes['objects without bndbox left out'].append(place)
                continue
            bbox = _box(item, size, place, notes)
            if bbox is not None:
                annotations.append(
                    dict(
                        image_id=image_id,
                        category_id=category_ids[category],
                        area=bbox[2] * bbox[3],
                        bbox=bbox,
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


def _text(item: ElementTree.Element, key: str) -> str:
    return item.findtext(key, '').strip()


def _whole(text: str) -> int:
    """A number of pixels, 0 where it is none."""
    try:
        value = float(text)
    except ValueError:
        return 0
    return int(value) if 1 <= value <= LARGEST and value == int(value) else 0


def _box(item: ElementTree.Element, size: list[int], place: str, notes: dict[str, list[str]]) -> list[float] | None:
    """x, y, width, height inside the image; None if there is no pixel of it. VOC counts pixels from 1 and means the
    last one to be inside."""
    sides = []
    for low, high, length in (('xmin', 'xmax', size[0]), ('ymin', 'ymax', size[1])):
        ends = []
        for key in (low, high):
            text = _text(item, f'bndbox/{key}')
            try:
                ends.append(float(text))
            except ValueError:
                ends.append(float('nan'))
            if not abs(ends[-1]) <= LARGEST:
                raise ValueError(f'{place.partition(", ")[2]}: {key} must be a number of pixels, got {text!r}')
        if ends[1] < ends[0]:
            notes['boxes with max below min put in order'].append(f'{place}: {low} {ends[0]:g}, {high} {ends[1]:g}')
        sides.append((max(min(ends) - 1, 0), min(max(ends), length)))
    (x1, x2), (y1, y2) = sides
    if min(x2 - x1, y2 - y1) < 1:
        notes['boxes without a pixel in the image left out'].append(place)
        return None
    return [x1, y1, x2 - x1, y2 - y1]


def image_size(path: Path) -> list[int]:
    """Width and height from the header of an image, turned as it is when it is read.

    Raises:
        ValueError: it is no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'image {path}: cannot be read as an image ({error})') from None
    return [height, width] if turned else [width, height]


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('root', type=Path, nargs='+', help='folder with Annotations/, JPEGImages/ and ImageSets/Main/')
    parser.add_argument('--split', help='name of a list in ImageSets/Main, for instance trainval (default: all)')
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write')
    parser.add_argument('--classes', nargs='+', default=VOC_CLASSES, help="default: VOC's twenty")
    args = parser.parse_args(argv)
    category_ids = {name: i for i, name in enumerate(args.classes, 1)}
    roots = [Voc(root) for root in args.root]
    files = [(voc, path) for voc in roots for path in voc.files(args.split)]
    # names are relative to one folder, which data_prefix.img is to be
    folder = Path(os.path.commonpath([voc.images.folder.absolute() for voc in roots]))
    images: list[dict] = []
    annotations: list[dict] = []
    notes: dict[str, list[str]] = defaultdict(list)
    seen: dict[str, Path] = {}
    for voc, path in track(files, 'Reading annotations'):
        read = read_image(voc, path, len(images) + 1, category_ids, notes)
        if read is None:
            continue
        image, own = read
        if len(roots) > 1:
            image['file_name'] = (voc.images.folder.absolute().relative_to(folder) / image['file_name']).as_posix()
        if image['file_name'] in seen:
            raise ValueError(
                f'{path}: is of the image {image["file_name"]}, as {seen[image["file_name"]]} is; correct <filename> '
                'of one of them'
            )
        seen[image['file_name']] = path
        images.append(image)
        annotations += own
    if not images:
        raise ValueError(f'{args.root[0]}: {_summary(notes)}; nothing is left')
    for i, annotation in enumerate(annotations, 1):
        annotation['id'] = i
    categories = [dict(id=i, name=name) for name, i in category_ids.items()]
    write_atomic(json.dumps(dict(images=images, annotations=annotations, categories=categories)).encode(), args.out)
    difficult = sum(annotation['iscrowd'] for annotation in annotations)
    print(
        f'{args.out}: {len(images)} images, {len(annotations)} objects'
        + (f' ({difficult} difficult ones, regions to ignore)' if difficult else '')
        + (f'; {_summary(notes)}' if notes else '')
        + (f'; data_prefix.img is {folder}' if len(roots) > 1 else '')
    )


def _summary(notes: dict[str, list[str]]) -> str:
    return '; '.join(f'{len(places)} {what} (first: {places[0]})' for what, places in notes.items())
