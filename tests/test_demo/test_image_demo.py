"""demo/image_demo.py: forms of the command line, files, bundled models, unreadable images."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, load_tool

from mmdet.apis import DetInferencer, init_detector
from mmdet.run.ending import run_main

BCCD = 'faster-rcnn_r18-half_fpn_cbnplus_24e'


@pytest.fixture(scope='module')
def demo():
    return load_tool('demo/image_demo.py')


@pytest.fixture(scope='module')
def checkpoint(tiny_config, tmp_path_factory):
    torch.manual_seed(0)
    model = init_detector(str(tiny_config))
    path = tmp_path_factory.mktemp('model') / 'x.pth'
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(cfg=model.cfg.pretty_text, dataset_meta=dict(classes=('disc', 'square', 'star'))),
        ),
        path,
    )
    return path


@pytest.fixture
def folder(tmp_path):
    """Two images in a folder, and one beside it."""
    for name in ('in/a.png', 'in/b.jpg', 'c.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.random.RandomState(0).randint(0, 255, (64, 64, 3), dtype=np.uint8))
    return tmp_path


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def forms():
    """Arguments between the image and the checkpoint, as mmdetection and as the issue have them."""
    return [
        lambda config, weights: [config, weights],
        lambda config, weights: [config, '--weights', weights],
        lambda config, weights: [weights],
        lambda config, weights: ['--weights', weights],
    ]


@pytest.mark.parametrize('form', forms())
def test_forms_of_the_command_line(demo, tiny_config, checkpoint, folder, form, capsys):
    out = folder / 'out'
    demo.main(
        [
            str(folder / 'c.png'),
            *form(str(tiny_config), str(checkpoint)),
            '--out-dir',
            str(out),
            '--device',
            'cpu',
            '--pred-score-thr',
            '0',
        ]
    )
    assert written(out) == ['preds/c.json', 'vis/c.png']
    result = json.loads((out / 'preds/c.json').read_text())
    direct = DetInferencer(str(tiny_config), str(checkpoint), 'cpu', show_progress=False)(str(folder / 'c.png'))
    assert result == direct['predictions'][0] and len(result['scores']) > 0
    said = capsys.readouterr().out
    assert f'1 picture in {out}/vis, detections in {out}/preds' in said and ' x ' in said


@pytest.mark.parametrize('words', [[BCCD], ['--weights', BCCD], [f'configs/bccd/{BCCD}.py', BCCD], [BCCD, BCCD]])
def test_published_weights_by_name(demo, folder, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    demo.main(['demo/images/blood_cells.jpg', *words, '--out-dir', str(folder / 'out'), '--no-save-vis'])
    assert json.loads((folder / 'out/preds/blood_cells.json').read_text())['scores'][0] > 0.9
    with pytest.raises(KeyError, match=f"config '{BCCD}s': no config has this name; nearest: '{BCCD}'"):
        demo.main(['demo/images/blood_cells.jpg', f'{BCCD}s'])


def test_folders_globs_and_several_files(demo, checkpoint, folder):
    argv = [str(folder / 'in'), str(folder / '*.png'), '--device', 'cpu', str(checkpoint), '--batch-size', '2']
    demo.main([*argv, '--out-dir', str(folder / '1'), '--no-save-pred'])
    assert written(folder / '1') == ['vis/a.png', 'vis/b.jpg', 'vis/c.png']
    demo.main([*argv, '--out-dir', str(folder / '2'), '--no-save-vis', '--palette', 'random'])
    assert written(folder / '2') == ['preds/a.json', 'preds/b.json', 'preds/c.json']


def test_unreadable_images_are_named_and_the_others_go_on(demo, checkpoint, folder, capsys):
    (folder / 'in/aa.png').write_text('no image')
    argv = [str(folder / 'in'), str(folder / 'none.png'), str(checkpoint), '--out-dir', str(folder / 'out')]
    with pytest.raises(SystemExit) as stop:
        demo.main([*argv, '--batch-size', '2', '--device', 'cpu'])
    text = str(stop.value.code)
    assert text.startswith('error: 2 of the inputs') and 'aa.png' in text and 'none.png: no such file' in text
    assert written(folder / 'out') == ['preds/a.json', 'preds/b.json', 'vis/a.png', 'vis/b.jpg']
    said = capsys.readouterr().out
    assert 'in/aa.png: cannot be read' in said and '2 pictures' in said


@pytest.fixture
def bundle(demo, checkpoint, folder, monkeypatch):
    """A bundled model as demo/models.json has them, in a folder of its own."""
    entry = dict(weights='x.pth', sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest(), images=['c.png'])
    (folder / 'x.pth').write_bytes(checkpoint.read_bytes())
    monkeypatch.setattr(demo, 'ROOT', folder)
    monkeypatch.setattr(demo, 'models', lambda: dict(nuclei=entry, bccd=dict(entry, images=['in/a.png'])))
    monkeypatch.chdir(folder)
    return entry


def test_without_arguments(demo, bundle, folder, capsys):
    demo.main([])
    demo.main(['--model', 'bccd'])
    demo.main(['in/b.jpg'])
    assert written(folder / 'outputs/vis') == ['a.png', 'b.jpg', 'c.png']
    assert capsys.readouterr().out.count('1 picture in outputs/vis') == 3


@pytest.mark.parametrize(
    'change, says',
    [
        (lambda folder, entry: (folder / 'x.pth').unlink(), 'x.pth is not there.*git checkout'),
        (lambda folder, entry: entry.update(sha256='0' * 64), 'x.pth is damaged.*000'),
    ],
)
def test_bundled_weights_that_are_not_right(demo, bundle, folder, capsys, change, says):
    change(folder, bundle)
    with pytest.raises((FileNotFoundError, ValueError), match=says):
        demo.main([])
    assert not (folder / 'outputs').exists()


def test_the_table_of_bundled_models(demo):
    size = 0
    for name, entry in demo.models().items():
        assert (ROOT / entry['config']).is_file(), name
        for image in entry['images']:
            size += (ROOT / image).stat().st_size
            assert (
                cv2.imread(str(ROOT / image)) is not None
                and (ROOT / image).name in (ROOT / 'demo/images/README.md').read_text()
            )
        weights = ROOT / entry['weights']
        assert weights.stat().st_size < 30e6
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == entry['sha256']
    assert size < 150e3


@pytest.mark.parametrize('name', ['nuclei', 'bccd'])
def test_bundled_models_find_something(demo, name, tmp_path, capsys):
    demo.main(['--model', name, '--out-dir', str(tmp_path), '--device', 'cpu'])
    assert 'nothing found' not in capsys.readouterr().out


@pytest.mark.parametrize(
    'argv, says',
    [
        (['x.pth'], 'no images to try x.pth on'),
        (['a.png', 'c.py'], 'c.py needs a checkpoint'),
        (['a.png', 'c.py', 'x.pth', '--weights', 'y.pth'], 'two checkpoints, x.pth and --weights y.pth'),
        (['a.png', 'x.pth', '--model', 'bccd'], '--model bccd is a whole model'),
        (['--batch-size', '0'], '--batch-size: 0: must be a whole number, 1 or more'),
        (['--pred-score-thr', '30'], '--pred-score-thr: 30: must be a number from 0 to 1'),
        (['--model', 'cats'], "'cats'"),
    ],
)
def test_bad_arguments(demo, argv, says, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(argv)
    assert stop.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    'argv, says',
    [
        (['no/such.png', 'x.pth'], 'no/such.png: no such file or folder'),
        (['no*.png', 'x.pth'], r'no\*.png: no image has such a name'),
        (['demo', 'x.pth'], 'folder demo: holds no images'),
        (['{image}', 'x.pth'], 'checkpoint x.pth: no such file'),
        (['{image}', 'faster-rcnn_r18_fpn_cbnn', '{weights}'], "nearest: 'faster-rcnn_r18_fpn_cbn'"),
        (['{image}', '--show', '{weights}'], 'no display here.*leave out --show.*--out-dir'),
    ],
)
def test_bad_input(demo, checkpoint, argv, says, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr('matplotlib.get_backend', lambda: 'agg')
    names = dict(image=ROOT / 'demo/images/blood_cells.jpg', weights=checkpoint)
    with pytest.raises((FileNotFoundError, KeyError, RuntimeError), match=says):
        demo.main([word.format(**names) for word in argv])


def test_exit_code(demo, monkeypatch):
    assert run_main(lambda: demo.main(['no/such.png', 'x.pth'])) == 1
