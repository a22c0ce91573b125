"""Reading images and annotations."""

import io
from collections.abc import Sequence
from typing import Any

import mmcv
import mmengine
import numpy as np
import pycocotools.mask as coco_mask
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from PIL import Image

from mmdet.mmdetection.arguments import accepts
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import get_box_type
from mmdet.structures.mask import BitmapMasks, MaskParts, PolygonMasks, draw_part, polygons_to_bitmap

from .base import DetTransform
from .crop import FilterAnnotations  # noqa: F401, mmdetection's path


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """Reads an image; mmcv's transform, with errors that name the file.

    Args:
        to_float32: float32 instead of uint8.
        color_type, imdecode_backend: as in mmcv; by default BGR, by OpenCV, turned by the EXIF orientation.
        ignore_empty: return None instead of raising an error where an image cannot be read.
        backend_args: of the file backend, for images that are not local files.

    Raises:
        FileNotFoundError: no such image.
        ValueError: it cannot be decoded, is cut off, or has another size than the annotations say.

    Example:
        The first transform of a pipeline::

            dict(type='LoadImageFromFile')
    """

    def transform(self, results: dict) -> dict | None:
        """Read the image at ``img_path``.

        Args:
            results: ``img_path``, and where there are annotations ``height`` and ``width``, which the image must have.

        Returns:
            ``results`` with ``img`` (H, W, 3) uint8 BGR, ``img_shape`` and ``ori_shape`` (height, width).
        """
        path = results['img_path']
        try:
            data = mmengine.fileio.get(path, backend_args=self.backend_args)
            problem = cut_off(data)
            if problem:
                raise ValueError(problem)
            image = mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
            if image is None:
                raise ValueError('unknown format, or damaged')
        except FileNotFoundError:
            if self.ignore_empty:
                return None
            raise FileNotFoundError(
                f'image {path}: no such file; the annotations name it (img_id '
                f'{results.get("img_id")}), check data_prefix.img'
            ) from None
        except Exception as error:
            if self.ignore_empty:
                return None
            raise ValueError(f'image {path}: cannot be read as an image ({type(error).__name__}: {error})') from error
        if size_problem(results, image.shape):
            raise ValueError(size_problem(results, image.shape, image_size(data)[1]))
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


def size_problem(results: dict, shape: Sequence[int], orientation: int = 1) -> str:
    """Say how an image's size differs from its annotations', or return ''.

    Args:
        results: ``img_path`` and, as the annotations have them, ``height`` and ``width``.
        shape: (height, width, ...) of the image as it is read.
        orientation: its EXIF orientation.
    """
    height, width = shape[:2]
    said = results.get('height', height), results.get('width', width)
    if said == (height, width):
        return ''
    hint = 'was it resized? The boxes would be in other places'
    if said == (width, height):
        hint = 'was it turned since it was annotated, or its EXIF orientation lost?'
        if orientation > 1:
            hint = (
                f'its EXIF orientation ({orientation}) turns it. If it was annotated as it is stored, read it so: '
                '--cfg-options train_dataloader.dataset.pipeline.0.color_type=color_ignore_orientation, and the same '
                'for val_dataloader and test_dataloader'
            )
    return (
        f'image {results["img_path"]}: is {width} x {height} pixels, but {said[1]} x {said[0]} in the '
        f'annotations (width x height); {hint}'
    )


def image_size(source: bytes | str) -> tuple[tuple[int, int] | None, int]:
    """Read the header of an image, its contents or its path.

    Returns:
        (height, width) as it is stored, None of what PIL does not read; its EXIF orientation, 1 of one without.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            return file.size[::-1], file.getexif().get(0x0112, 1)
    except Exception:  # PIL does not read all that OpenCV does
        return None, 1


def cut_off(data: bytes) -> str:
    """Say how a JPEG or PNG file is cut off, whose rest decoders fill with grey without a word, or return ''."""
    if not data:
        return 'the file is empty'
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        at = 8
        while data[at + 4 : at + 8] not in (b'IEND', b''):
            at += 12 + int.from_bytes(data[at : at + 4], 'big')
        return '' if data[at + 4 : at + 8] else 'cut off: the end of the PNG is missing'
    if data[:2] != b'\xff\xd8':
        return ''
    at = 2  # past the segments, of which one may hold a thumbnail with an end of its own
    while data[at : at + 1] == b'\xff' and data[at + 1 : at + 2] != b'\xda':
        at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big') if data[at + 1 : at + 2] != b'\xff' else 1
    return '' if data.find(b'\xff\xd9', at) > 0 else 'cut off: the end of the JPEG is missing'


def rle_problem(mask: dict, size: Sequence[int] | None = None) -> str:
    """Say what is wrong with a run-length encoding, or return ''.

    Args:
        mask: ``size`` [height, width] and ``counts``, a list of run lengths or COCO's compressed text.
        size: (height, width) of the image.
    """
    own, counts = mask.get('size'), mask.get('counts')
    if not (isinstance(own, (list, tuple)) and len(own) == 2 and all(type(side) is int and side > 0 for side in own)):
        return f"must have 'size' [height, width], got {own!r}"
    if isinstance(counts, (str, bytes)):
        runs = _runs(counts.encode('latin1', 'replace') if isinstance(counts, str) else counts)
    elif isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts):
        runs = counts
    else:
        return f"must have 'counts', a list of run lengths or COCO's compressed text, got {str(counts)[:60]!r}"
    if runs is None or sum(runs) != own[0] * own[1]:
        return f'is no run-length encoding of {own[0]} x {own[1]} pixels: the runs ' + (
            'cannot be read' if runs is None else f'add up to {sum(runs)}'
        )
    if size is not None and list(own) != list(size):
        return other_size(own, size)
    return ''


def other_size(own: Sequence[int], size: Sequence[int]) -> str:
    """Say that a mask of one size (height, width) is in an image of another."""
    return f'has the size {list(own)}, its image {list(size)} (height, width)'


def _runs(text: bytes) -> list[int] | None:
    """Run lengths of COCO's compressed text (pycocotools' rleFrString), None if there is one below 0.

    Each number is its difference to the last but one, in digits of five bits, the lowest first; bit 6 says that
    another digit follows, and bit 5 of the last one is the sign.
    """
    runs: list[int] = []
    value = shift = 0
    for char in text:
        digit = char - 48
        if not 0 <= digit < 64 or shift > 40:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            if len(runs) > 2:
                value += runs[-2]
            if value < 0:
                return None
            runs.append(value)
            value = shift = 0
    return None if shift else runs


def valid_mask(segmentation: Any) -> tuple[Any, int]:
    """Return a usable mask (list of polygons or RLE; None if there is none) and the number of polygons left out.

    Polygons need three points or more, x1, y1, x2, y2, ....
    """
    if isinstance(segmentation, dict):
        return segmentation, 0
    if not segmentation:
        return None, 0
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
    return polygons or None, len(segmentation) - len(polygons)


@TRANSFORMS.register_module()
class LoadImageFromNDArray(LoadImageFromFile):
    """Takes an image that is an array already, in place of LoadImageFromFile.

    Arguments are those of :class:`LoadImageFromFile`, of which only ``to_float32`` counts.

    Raises:
        TypeError, ValueError: ``img`` is no (H, W, 3) array of uint8 or float32, from 0 to 255.
    """

    def transform(self, results: dict) -> dict:
        """Check ``img``, (H, W, 3) BGR of uint8 or float32 from 0 to 255.

        Returns:
            ``results`` with ``img``, ``img_path`` (None), ``img_shape`` and ``ori_shape`` (height, width).
        """
        image = results['img']
        if not isinstance(image, np.ndarray):
            raise TypeError(f'an image must be an array (H, W, 3) of uint8, in the order BGR, got {type(image)}')
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype not in (np.uint8, np.float32):
            raise ValueError(
                'an image must be an array (H, W, 3) of uint8 (or float32) from 0 to 255, in the order '
                f'BGR, got {image.shape} of {image.dtype}'
            )
        if image.dtype == np.float32 and 0 < image.max() <= 1:
            raise ValueError(
                f'an image must have values from 0 to 255, got float32 up to {image.max():.3f}: multiply by 255'
            )
        results['img'] = np.ascontiguousarray(image, dtype=np.float32 if self.to_float32 else image.dtype)
        results['img_path'] = None
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
@accepts(
    'ignore_index',
    'imdecode_backend',
    with_seg=False,
    with_keypoints=False,
    reduce_zero_label=False,
    file_client_args=None,
)
class LoadAnnotations(DetTransform):
    """Turns an image's ``instances``, as :class:`.CocoDataset` has them, into arrays.

    Args:
        with_bbox, with_label, with_mask: what to load.
        poly2mask: masks as bitmaps; False keeps polygons, and objects that come as RLE cannot be loaded.
        box_type: the boxes' type, by name; None: an array (N, 4).
        backend_args: not used: the data set has read the annotations.

    Raises:
        ValueError: of an image, a run-length encoding that is none, or with ``poly2mask=False`` any but a crowd's.

    Example:
        In a pipeline, for Mask R-CNN::

            dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    """

    def __init__(
        self,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = False,
        poly2mask: bool = True,
        box_type: str | None = 'hbox',
        backend_args: dict | None = None,
    ) -> None:
        self.with_bbox = with_bbox
        self.with_label = with_label
        self.with_mask = with_mask
        self.poly2mask = poly2mask
        self.box_type = box_type
        self._boxes = np.asarray if box_type is None else get_box_type(box_type)[1]
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load the objects of an image.

        Args:
            results: ``instances``, and for masks ``ori_shape`` (height, width).

        Returns:
            ``results`` with ``gt_bboxes``, :class:`.HorizontalBoxes` of N boxes x1, y1, x2, y2 in pixels, float32,
            ``gt_bboxes_labels`` (N,) int64, ``gt_ignore_flags`` (N,) bool and ``gt_masks``, :class:`.BitmapMasks` or
            :class:`.PolygonMasks`. With masks, an object that has none is ignored.
        """
        if self.with_bbox:
            self._load_bboxes(results)
        if self.with_label:
            self._load_labels(results)
        if self.with_mask:
            self._load_masks(results)
        return results

    def _load_bboxes(self, results: dict) -> None:
        instances = results.get('instances', [])
        boxes = np.array([instance['bbox'] for instance in instances], dtype=np.float32).reshape(-1, 4)
        results['gt_bboxes'] = self._boxes(boxes)
        results['gt_ignore_flags'] = np.array([instance['ignore_flag'] for instance in instances], dtype=bool)

    def _load_labels(self, results: dict) -> None:
        labels = [instance['bbox_label'] for instance in results.get('instances', [])]
        results['gt_bboxes_labels'] = np.array(labels, dtype=np.int64)

    def _load_masks(self, results: dict) -> None:
        masks, (height, width) = self._process_masks(results), results['ori_shape']
        if self.poly2mask:
            try:
                results['gt_masks'] = BitmapMasks(self._bitmaps(masks, height, width), height, width)
            except ValueError as error:
                raise ValueError(f'image {results["img_path"]} (img_id {results.get("img_id")}): {error}') from None
            return
        flags = results['gt_ignore_flags']
        if any(isinstance(mask, dict) and not flag for mask, flag in zip(masks, flags)):
            raise ValueError(
                f'image {results["img_path"]}: has masks as RLE, which poly2mask=False cannot keep as '
                'polygons; use LoadAnnotations(poly2mask=True)'
            )
        # Of ignored regions (COCO's crowds are RLE) only the boxes are used.
        polygons = [[] if mask is None or isinstance(mask, dict) else mask for mask in masks]
        results['gt_masks'] = PolygonMasks(polygons, height, width)

    def _process_masks(self, results: dict) -> list:
        """Each object's mask, None where there is none to use; that object can be neither positive nor background."""
        instances = results.get('instances', [])
        masks = [valid_mask(instance['mask'])[0] for instance in instances]
        ignored = [bool(instance['ignore_flag']) or mask is None for instance, mask in zip(instances, masks)]
        results['gt_ignore_flags'] = np.array(ignored, dtype=bool)
        return masks

    def _bitmaps(self, masks: list, height: int, width: int) -> list[np.ndarray] | MaskParts:
        if type(self)._poly2mask is not LoadAnnotations._poly2mask:
            return [self._poly2mask(mask, height, width) for mask in masks]
        for mask in masks:
            _check_mask(mask, height, width)
        return MaskParts([draw_part(mask, height, width) for mask in masks], np.arange(height), np.arange(width))

    def _poly2mask(self, mask_ann: list | dict | None, img_h: int, img_w: int) -> np.ndarray:
        return decode_mask(mask_ann, img_h, img_w)


def decode_mask(mask, height: int, width: int) -> np.ndarray:
    """Draw polygons, compressed or uncompressed RLE, or None, as a (height, width) array of 0 and 1.

    Raises:
        ValueError: a run-length encoding that is none, or of another size; pycocotools would read past its end.
    """
    _check_mask(mask, height, width)
    if isinstance(mask, dict):
        return coco_mask.decode(
            coco_mask.frPyObjects(mask, height, width) if isinstance(mask['counts'], list) else mask
        )
    return polygons_to_bitmap(mask or [], height, width)


def _check_mask(mask, height: int, width: int) -> None:
    problem = rle_problem(mask, (height, width)) if isinstance(mask, dict) else ''
    if problem:
        raise ValueError(f'a mask {problem}')
