"""Every config builds; the README says what the configs say."""
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet.ops.norm import build_norm_layer
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.utils.config_check import check_model_config, check_parts

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*rcnn*.py'))


@pytest.mark.parametrize('path', CONFIGS)
def test_config_builds(path):
    init_default_scope('mmdet')
    cfg = Config.fromfile(str(ROOT / path))
    check_model_config(cfg)
    if '_base_/' not in path:
        check_parts(cfg, ('train', 'val', 'test'))
        for key in ('train_pipeline', 'test_pipeline'):
            for transform in cfg[key]:
                TRANSFORMS.build(transform)
        for key in ('train_dataloader', 'val_evaluator', 'optim_wrapper', 'param_scheduler', 'default_hooks'):
            assert key in cfg
        # What a run writes into its folder is read back.
        assert Config.fromstring(cfg.pretty_text, '.py').model == cfg.model
    cfg.model.backbone.init_cfg = None
    if cfg.model.backbone.depth == 18:  # the large ones are built in test_detectors.py
        MODELS.build(cfg.model)


def test_norms_of_a_family_differ_in_nothing_else():
    for folder, stem in (('nuclei', 'mask-rcnn_r18_fpn'), ('shapes', 'mask-rcnn_r18_fpn'),
                         ('bccd', 'faster-rcnn_r18_fpn')):
        texts = [re.sub(r'(#.*\n)?norm_cfg = .*\n', '', (ROOT / 'configs' / folder / f'{stem}_{norm}.py').read_text())
                 for norm in ('bn', 'gn', 'cbn')]
        assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize('model', ['faster', 'mask'])
def test_variants_of_the_published_cbn_config(model):
    """They differ from the paper's in the norm alone, and in it by what their names say."""
    def read(variant):
        path = ROOT / 'configs' / 'cbn' / f'{model}_rcnn_r50_fpn_{variant}_1x.py'
        return re.sub(r'(#.*\n)?norm_cfg = .*\n', '', path.read_text()), Config.fromfile(str(path)).norm_cfg

    text, paper = read('cbn_buffer3_burnin8')
    differences = dict(
        cbn_fast=dict(compensation='secant', sample_stride=2), synccbn=dict(type='SyncCBN'),
        cbnplus=dict(type='CBN+', buffer_num=15, burnin=500))
    for variant, changes in differences.items():
        other, norm = read(variant)
        assert other == text
        kept = {} if variant == 'cbnplus' else paper
        assert norm == {**kept, **changes}
        layer = build_norm_layer(norm, 8)[1]
        assert layer.sync == (variant == 'synccbn') and layer.sample_stride == (1 if variant == 'synccbn' else 2)


def test_readme_shows_a_config_that_is_there():
    readme = (ROOT / 'README.md').read_text()
    block = re.search(r'```python\n(_base_.*?)```', readme, re.S).group(1)
    assert block == (ROOT / 'configs/cbn/mask_rcnn_r50_fpn_cbn_buffer3_burnin8_1x.py').read_text()
    for link in re.findall(r'\]\(((?!http)[^)#]+)\)', readme):
        assert (ROOT / link).exists(), link
