"""demo/video_demo.py: frames and size of what is written, whole or not at all, errors."""

import cv2
import numpy as np
import pytest
import torch
from conftest import load_tool

from mmdet.apis import init_detector
from mmdet.visualization import check_display, readable_factor

FRAMES = 4


@pytest.fixture(scope='module')
def demo():
    return load_tool('demo/video_demo.py')


@pytest.fixture(scope='module')
def model(tiny_config, tmp_path_factory):
    """Config and checkpoint."""
    torch.manual_seed(0)
    detector = init_detector(str(tiny_config))
    path = tmp_path_factory.mktemp('model') / 'x.pth'
    torch.save(dict(state_dict=detector.state_dict(), meta=dict(dataset_meta=dict(classes=('a', 'b', 'c')))), path)
    return [str(tiny_config), str(path), '--device', 'cpu']


@pytest.fixture
def video(tmp_path):
    """A bright square that moves to the right, 4 frames of 96 x 64 pixels, 5 a second."""
    path = str(tmp_path / 'in.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 64))
    for i in range(FRAMES):
        frame = np.zeros((64, 96, 3), dtype=np.uint8)
        frame[20:40, 10 + 15 * i : 30 + 15 * i] = 255, 0, 0
        writer.write(frame)
    writer.release()
    return path


def read(path):
    reader = cv2.VideoCapture(str(path))
    return [reader.read()[1] for _ in range(int(reader.get(cv2.CAP_PROP_FRAME_COUNT)))], reader.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize('ending', ['mp4', 'avi'])
def test_frames_are_those_of_the_video_enlarged(demo, model, video, tmp_path, ending, capsys):
    out = tmp_path / 'new' / f'out.{ending}'
    demo.main([video, *model, '--out', str(out), '--score-thr', '1'])
    frames, fps = read(out)
    factor = readable_factor(np.zeros((64, 96, 3)))
    assert len(frames) == FRAMES and fps == 5 and factor > 1
    for i, frame in enumerate(frames):
        assert frame.shape == (64 * factor, 96 * factor, 3)
        blue, _, red = frame[30 * factor, (20 + 15 * i) * factor]
        assert blue > 200 and red < 60 and frame[50 * factor, 40 * factor].max() < 40
    assert f'{FRAMES} frames in' in (said := capsys.readouterr().out) and f'video in {out}' in said
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_detections_are_drawn(demo, model, video, tmp_path):
    for name, score in (('1', '0'), ('2', '1')):
        demo.main([video, *model, '--out', str(tmp_path / f'{name}.avi'), '--score-thr', score])
    drawn, plain = read(tmp_path / '1.avi')[0], read(tmp_path / '2.avi')[0]
    assert all(np.abs(a.astype(int) - b).max() > 100 for a, b in zip(drawn, plain))


def test_interrupted(demo, model, video, tmp_path, monkeypatch):
    (tmp_path / 'out.mp4').write_text('old')
    detect, calls = demo.inference_detector, []

    def stop(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(*args)

    monkeypatch.setattr(demo, 'inference_detector', stop)
    with pytest.raises(KeyboardInterrupt):
        demo.main([video, *model, '--out', str(tmp_path / 'out.mp4')])
    assert (tmp_path / 'out.mp4').read_text() == 'old'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.avi', 'out.mp4']


def test_showing(demo, model, video, monkeypatch):
    shown = []
    monkeypatch.setattr(demo, 'check_display', lambda advice: None)
    monkeypatch.setattr(cv2, 'imshow', lambda name, frame: shown.append(frame))
    monkeypatch.setattr(cv2, 'waitKey', lambda wait: shown.append(wait) or (ord('q') if len(shown) > 2 else -1))
    monkeypatch.setattr(cv2, 'destroyWindow', lambda name: shown.append(name))
    demo.main([video, *model, '--show', '--wait-time', '20'])
    assert [shown[1], shown[3]] == [20, 20] and shown[4:] == ['video']


@pytest.mark.parametrize(
    'spoil, error, says',
    [
        (lambda demo, patch, path: path.unlink(), FileNotFoundError, 'in.avi: no such file'),
        (lambda demo, patch, path: path.write_text('no video'), ValueError, 'in.avi: OpenCV cannot open it.*codec'),
        (
            lambda demo, patch, path: patch.setitem(demo.CODECS, '.mp4', 'none'),
            RuntimeError,
            '--out .*out.mp4: OpenCV cannot write none videos of 768 x 512',
        ),
        (
            lambda demo, patch, path: patch.setattr(demo, 'check_display', check_display),
            RuntimeError,
            'no display here.*leave out --show, use --out',
        ),
        (lambda demo, patch, path: patch.setattr(cv2, 'imshow', no_windows), RuntimeError, '--show: .*headless'),
    ],
)
def test_bad_input(demo, model, video, tmp_path, monkeypatch, spoil, error, says):
    monkeypatch.setattr(demo, 'check_display', lambda advice: None)
    show = ['--show'] if '--show' in says else []
    spoil(demo, monkeypatch, tmp_path / 'in.avi')
    with pytest.raises(error, match=says):
        demo.main([video, *model, '--out', str(tmp_path / 'out.mp4'), *show])
    assert not list(tmp_path.glob('*out*'))


def no_windows(*_):
    raise cv2.error('not implemented')


@pytest.mark.parametrize(
    'argv, says',
    [
        ([], 'give --out, --show'),
        (['--out', 'x.gif'], '--out x.gif: the name must end in .mp4 or .avi'),
        (['--out', '{video}'], 'is the video that is read'),
    ],
)
def test_bad_arguments(demo, model, video, argv, says, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main([video, *model, *(word.format(video=video) for word in argv)])
    assert stop.value.code == 2 and says in capsys.readouterr().err
