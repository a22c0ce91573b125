"""The python blocks of the documents run; blocks that are nothing to run are listed here with their reason."""

import importlib
import re
from pathlib import Path

import pytest
import torch
import torchvision
from documents import BLOCKS, config_path, is_config

from mmdet.config import check_model_config, load_config
from mmdet.config.check import check_parts, walk
from mmdet.registry import MODELS, TRANSFORMS

# Blocks that are nothing to run, by page and first line.
TEXT = {
    'INSTALL.md': {'data/coco/': 'folders', 'data/shapes/     # mmdet data shapes --out data/shapes': 'folders'},
    'docs/architecture.md': {
        'config.py ── load_config ──> DetRunner ──> DataLoader(CocoDataset ─ transforms ─ PackDetInputs)': 'a picture'
    },
    'docs/data.md': {
        'data/coco/': 'folders',
        'data/cells/': 'folders',
        'data/cells/annotations/train.json: 40 images, 212 objects = 205 to learn + 3 of no image of the file '
        '(annotations[17]:': 'a line of the log; tests/test_datasets/test_coco.py makes such',
    },
    'docs/mmdetection.md': {
        "config my.py, model.backbone.type: there is no 'ResNxt'; nearest: 'ResNeXt', 'ResNet', ...": (
            'messages; test_messages.py makes them'
        )
    },
    'docs/cbn.md': {
        'mu_c(w) = <w_c, m> + b_c                  sigma_c^2(w) = <w_c, S w_c>': 'formula; tests/test_ops holds it',
        'g_c = E_p[(y_cp - mu_c) x_p] = S w0_c': 'formula',
        "truth  >=  secant  >=  Taylor of the variance  >=  the paper's": 'formula',
        'mu = sum_i p_i mu_i           sigma^2 = sum_i p_i sigma_i^2 + sum_i p_i (mu_i - mu)^2': 'formula',
        'dL/dy = (gamma / sigma) (dL/dz - p_0 / M (sum(dL/dz) + z_hat sum(dL/dz z_hat)))': 'formula',
        'V <- (1-b) V + b sigma^2 + b (1-b) delta^2': 'formula',
        'dL/dmu = -(gamma / sigma) sum(dL/dz)          dL/dsigma^2 = -gamma / (2 sigma^2) sum(dL/dz z_hat)': 'formula',
    },
}
# Scripts that a test of their own runs.
ELSEWHERE = {('docs/deploy.md', '"""Detect objects with a file of mmdet export: python detect.py MODEL IMAGE."""')}
# Configs in scripts that a tiny one stands in for.
SUBSTITUTES = {'configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': 'tiny.py'}


def by_place(blocks):
    return pytest.mark.parametrize('block', blocks, ids=[block.place for block in blocks])


def test_every_block_is_in_a_language_that_is_tested():
    assert {block.language for block in BLOCKS} <= {'python', 'shell', 'text'}


@by_place([block for block in BLOCKS if block.language == 'text' and block.page != 'docs/troubleshooting.md'])
def test_text_is_listed_with_a_reason(block):
    assert TEXT.get(block.page, {}).get(block.first_line), f'{block.place}: neither python nor shell; add it to TEXT'


def test_no_reason_is_left_of_what_is_gone():
    listed = {(page, line) for page, lines in TEXT.items() for line in lines}
    assert listed <= {(block.page, block.first_line) for block in BLOCKS}


@by_place(list(filter(is_config, BLOCKS)))
def test_config(block, place, no_random_weights):
    """The config is read where it says that it lies, its parts are known, its model and pipelines are built."""
    cfg = load_config(config_path(block))
    check_model_config(cfg)
    check_parts(cfg, ('train', 'val', 'test'))
    cfg.model.backbone.init_cfg = None
    MODELS.build(cfg.model)
    for _, node in walk(dict(train=cfg.train_dataloader.to_dict(), test=cfg.test_dataloader.to_dict())):
        for transform in node.get('pipeline', ()):
            TRANSFORMS.build(transform)


@by_place(
    [
        block
        for block in BLOCKS
        if block.language == 'python' and not is_config(block) and (block.page, block.first_line) not in ELSEWHERE
    ]
)
def test_script(block, place, tiny_shapes):
    """The script runs, with small files under its files' names."""
    text = block.text
    assert re.search(r'^(from|import) ', text, re.M), f'{block.place}: neither a script nor a config with _base_'
    for config in re.findall(r'configs/[\w/.+-]+\.py', text):
        assert Path(config).is_file(), f'{block.place}: {config}: no such file'
    module = re.match(r'# (\w+)\.py\n', text)
    if module:  # shown as a file that a config imports
        importlib.import_module(module.group(1))
        return
    (place / 'data').mkdir()
    (place / 'data' / 'shapes').symlink_to(tiny_shapes)
    for real, stand_in in SUBSTITUTES.items():
        text = text.replace(real, stand_in)
    exec(compile(text, block.place, 'exec'), dict(model=torchvision.models.resnet18(), images=torch.rand(2, 3, 64, 64)))
