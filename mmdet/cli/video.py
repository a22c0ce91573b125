"""Detect objects in a video, frame by frame.

mmdet video VIDEO CONFIG CHECKPOINT --out OUT.mp4
"""

import os
import time
from pathlib import Path

import cv2
import numpy as np

from mmdet.apis import inference_detector, init_detector
from mmdet.apis.inference import build_pipeline, pick_device
from mmdet.io.atomic import replace_when_done
from mmdet.options import add_device, add_trust_checkpoint, make_parser, number
from mmdet.run.progress import track
from mmdet.visualization import DetLocalVisualizer, check_display, readable_factor

#: what is written, by the ending of --out
CODECS = {'.mp4': 'mp4v', '.avi': 'MJPG'}
#: frames a second where the video does not say
FPS = 25.0
WINDOW = 'video'


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument('video', help='video file')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_device(parser)
    parser.add_argument(
        '--score-thr',
        type=number(0, 1),
        default=0.3,
        metavar='SCORE',
        help='detections with a lower score are not drawn (default: 0.3)',
    )
    parser.add_argument('--out', help=f'video to write, {" or ".join(CODECS)}; it appears when it is whole')
    parser.add_argument('--show', action='store_true', help='show it in a window; q or Esc closes the window')
    parser.add_argument(
        '--wait-time',
        type=number(0),
        default=1,
        metavar='MS',
        help='milliseconds that each frame is shown, 0: until a key is pressed (default: 1)',
    )
    add_trust_checkpoint(parser)
    args = parser.parse_args(argv)
    if not (args.out or args.show):
        parser.error('give --out, --show, or both')
    if args.out and Path(args.out).suffix.lower() not in CODECS:
        parser.error(f'--out {args.out}: the name must end in {" or ".join(CODECS)}')
    if args.out and os.path.exists(args.out) and os.path.exists(args.video) and os.path.samefile(args.out, args.video):
        parser.error(f'--out {args.out} is the video that is read')
    return args


def open_video(path):
    """A reader of a video.

    Raises:
        FileNotFoundError, ValueError: no such file; no video, or one that OpenCV cannot decode.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'video {path}: no such file')
    reader = cv2.VideoCapture(path)
    if not reader.isOpened():
        raise ValueError(
            f'video {path}: OpenCV cannot open it: not a video, or of a codec that is missing here; '
            'convert it, for instance with: ffmpeg -i IN -c:v mpeg4 OUT.mp4'
        )
    return reader


def open_writer(path, name, fps, size):
    """A writer of a video.

    Args:
        path: of the file.
        name: of --out, for the error.
        size: width and height in pixels.

    Raises:
        RuntimeError: OpenCV has no encoder.
    """
    codec = CODECS[Path(path).suffix.lower()]
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), fps, size)
    if not writer.isOpened():
        raise RuntimeError(
            f'--out {name}: OpenCV cannot write {codec} videos of {size[0]} x {size[1]} pixels here; '
            f'try another ending ({", ".join(CODECS)})'
        )
    return writer


def show(frame, wait_time):
    """Show a frame (H, W, 3), BGR; returns whether to go on showing."""
    try:
        cv2.imshow(WINDOW, frame)
        key = cv2.waitKey(max(round(wait_time), 1) if wait_time else 0)
        if key not in (27, ord('q')):
            return True
        cv2.destroyWindow(WINDOW)
    except cv2.error as error:
        raise RuntimeError(
            f'--show: OpenCV opens no windows here (opencv-python-headless does not); use --out ({error})'
        ) from None
    return False


def frames(reader):
    """The frames (H, W, 3), BGR, of a video."""
    while True:
        read, frame = reader.read()
        if not read:
            return
        yield frame


def run(model, reader, args, writer_path=None):
    """Detect, draw, write and show frame by frame.

    Raises:
        RuntimeError: see :func:`open_writer` and :func:`show`; frames that could not be written.
        ValueError: there are no frames.
    """
    visualizer = DetLocalVisualizer(
        # One colour for a class: those of single instances would change from frame to frame
        bbox_color=model.dataset_meta['palette'],
        mask_color=model.dataset_meta['palette'],
    )
    visualizer.dataset_meta = model.dataset_meta
    pipeline = build_pipeline(model.cfg)
    total = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    fps = reader.get(cv2.CAP_PROP_FPS)
    writer, number, factor, start, showing = None, 0, 1, time.time(), args.show
    try:
        for frame in track(frames(reader), 'detecting', total):
            if not number:
                factor = readable_factor(frame)
                if writer_path:
                    size = (frame.shape[1] * factor, frame.shape[0] * factor)
                    writer = open_writer(writer_path, args.out, fps if 0 < fps < 1000 else FPS, size)
            (sample,) = inference_detector(model, [frame], pipeline)
            rgb = visualizer.picture(frame[..., ::-1], sample, False, True, args.score_thr, factor)
            picture = np.ascontiguousarray(rgb[..., ::-1])
            if writer is not None:
                writer.write(picture)
            showing = showing and show(picture, args.wait_time)
            number += 1
    finally:
        if writer is not None:
            writer.release()
    if not number:
        raise ValueError(f'video {args.video}: no frame of it can be decoded')
    if writer_path:
        kept = int(cv2.VideoCapture(writer_path).get(cv2.CAP_PROP_FRAME_COUNT))
        if kept != number:
            raise RuntimeError(f'--out {args.out}: of {number} frames {kept} were written; is the disk full?')
    if number < total:
        print(f'video {args.video}: {number} of {total} frames can be decoded')
    seconds = time.time() - start
    print(f'{number} frames in {seconds:.0f} s, {number / seconds:.1f} frames/s')


def main(argv=None):
    args = parse_args(argv)
    if args.show:
        check_display('leave out --show, use --out')
    reader = open_video(args.video)
    model = init_detector(
        args.config, args.checkpoint, pick_device(args.device), trust_checkpoint=args.trust_checkpoint
    )
    if not args.out:
        run(model, reader, args)
        return
    with replace_when_done(args.out) as temporary:
        run(model, reader, args, temporary)
    print(f'video in {args.out}')
