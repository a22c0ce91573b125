"""Whether a data set's images are there, and of the size that its annotations say; looked at before a run."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .coco import CocoDataset
from .transforms.loading import LoadImageFromFile, image_size, size_problem

#: EXIF orientations that swap width and height
ON_ITS_SIDE = (5, 6, 7, 8)


def coco_datasets(dataset: Any) -> Iterator[CocoDataset]:
    """The data sets in COCO's format that a data set is, or wraps."""
    if isinstance(dataset, CocoDataset):
        yield dataset
    else:
        for inner in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
            if inner is not None:
                yield from coco_datasets(inner)


def check_files(dataset: CocoDataset, number: int = 32) -> None:
    """Look whether all images are there, and at the size of some of them.

    Where ``skip_broken`` lets images be left out, and in files that are not local, nothing is looked at.

    Args:
        number: of images, spread over the data set, whose headers are read.

    Raises:
        FileNotFoundError: images that are not there. ValueError: one of another size than the annotations say.
    """
    images = dataset.images
    if images is None or '://' in images.prefix or dataset.backend_args is not None:
        return
    if dataset.skip_broken and not dataset.test_mode:
        return
    missing = missing_files(images.paths())
    if missing:
        without = '' if dataset.test_mode else ', or go on without such images with skip_broken=0.01 in the data set'
        raise FileNotFoundError(
            f'image {missing[0]}: no such file, and {len(missing) - 1} more of the {len(images)} images of '
            f'{dataset.ann_file}; check data_root and data_prefix.img{without}{_elsewhere(missing[0], images.prefix)}'
        )
    for i in range(0, len(images), max(1, len(images) // number)):
        problem = header_problem(dataset, images[i])
        if problem:
            raise ValueError(problem)


def missing_files(paths: Sequence[str]) -> list[str]:
    """Those of ``paths`` that are not there. Folders are listed, which takes less than a question for each file."""
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            try:
                listed[folder] = set(os.listdir(folder or '.'))
            except OSError:
                listed[folder] = set()
        if name not in listed[folder] and not os.path.isfile(path):  # names may be one in two spellings
            missing.append(path)
    return missing


def _elsewhere(path: str, prefix: str) -> str:
    """Where the image is, if it is near."""
    name = os.path.basename(path.replace('\\', '/'))
    root = Path(prefix or '.')
    for folder in (root, root.parent, *(one for one in (root, root.parent) for one in _folders(one))):
        if (folder / name).is_file():
            return f'. There is {folder / name}'
    return ''


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(one for one in root.iterdir() if one.is_dir())[:100]
    except OSError:
        return []


def header_problem(dataset: CocoDataset, image: dict) -> str:
    """Say how an image file's size differs from its annotations', or return ''. What is no image is left to loading."""
    size, turn = image_size(image['img_path'])
    if size is None:
        return ''
    return size_problem(image, size[::-1] if turn in ON_ITS_SIDE and _turns(dataset) else size, turn)


def _turns(dataset: CocoDataset) -> bool:
    """Whether images are read as their EXIF orientation says."""
    loading = next((one for one in dataset.pipeline.transforms if isinstance(one, LoadImageFromFile)), None)
    flag = loading.color_type if loading else 'color'
    return not ('ignore_orientation' in flag or flag == 'unchanged')
