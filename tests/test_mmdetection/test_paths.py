"""mmdetection's import paths, against the recorded names of its modules."""

import importlib
import pkgutil
import sys

import pytest
from conftest import ROOT

import mmdet
from mmdet.config import load_config
from mmdet.mmdetection.paths import MODULES, names

#: other things of the same name, and values by which nothing is found
OTHERS = {
    'mmdet.models.backbones.detectors_resnet': {'Bottleneck', 'ResLayer'},
    'mmdet.models.backbones.detectors_resnext': {'Bottleneck'},
    'mmdet.models.backbones.resnest': {'Bottleneck'},
    'mmdet.models.necks.dilated_encoder': {'Bottleneck'},
    'mmdet.models.task_modules.assigners.center_region_assigner': {'scale_boxes'},
    'mmdet.evaluation.functional': {'bbox_overlaps'},  # of arrays
    'mmdet.evaluation.functional.bbox_overlaps': {'bbox_overlaps'},
}


def own_names():
    """The names of classes and functions of this package."""
    found = set()
    for info in pkgutil.walk_packages(mmdet.__path__, 'mmdet.'):
        if '.mim' not in info.name and not info.name.endswith('__main__'):
            module = importlib.import_module(info.name)
            found |= {name for name, value in vars(module).items() if getattr(value, '__module__', '') == info.name}
    return found


def contents(module):
    """What is in a module, nothing if there is none."""
    try:
        return vars(importlib.import_module(module))
    except ModuleNotFoundError:
        return {}


def test_what_is_here_is_where_mmdetection_has_it():
    own, missing, number = own_names(), [], 0
    for module, wanted in names().items():
        wanted = set(wanted) & own - OTHERS.get(module, set())
        if not wanted or '._' in module:
            continue
        number += len(wanted)
        there = contents(module)
        missing += [f'{module}.{name}' for name in sorted(wanted) if name not in there]
    assert not missing and number > 180


def test_a_path_leads_to_the_same_class():
    from mmdet.models.roi_heads import BBoxHead
    from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
    from mmdet.models.roi_heads.bbox_heads.bbox_head import BBoxHead as same

    assert same is BBoxHead and issubclass(Shared2FCBBoxHead, BBoxHead)
    assert set(MODULES) <= set(names())
    for module in MODULES:  # its import must not hide a function of that name
        package, _, name = module.rpartition('.')
        imported = importlib.import_module(module)
        assert getattr(importlib.import_module(package), name, None) is imported
        assert name not in getattr(importlib.import_module(package), '__all__', ())


@pytest.mark.parametrize(
    'line, words',
    [
        ('from mmdet.models.dense_heads import RetinaHead', "mmdetection's RetinaHead is not here; .* has RPNHead"),
        ('import mmdet.models.dense_heads.retina_head', "mmdetection's retina_head is not here"),
        ('from mmdet.models.roi_heads.bbox_heads import DIIHead', "mmdetection's DIIHead is not here"),
        ('from mmdet.models.roi_heads import StandartRoIHead', "cannot import name 'StandartRoIHead'"),
        ('import mmdet.nowhere', "No module named 'mmdet.nowhere'"),
    ],
)
def test_what_is_not_here_is_said(line, words):
    with pytest.raises(ImportError, match=words):
        exec(line)


@pytest.mark.parametrize(
    'line, words',
    [
        ('from mmdet.models.backbones.resnet import ResNetV1d', 'ResNetV1d is not here; .* has .*Bottleneck, ResNet'),
        ('from mmdet.models.dense_heads import RetinaHead', "mmdetection's RetinaHead is not here; .* has RPNHead"),
        ('from mmdet.models.backbones.resnet import ResNetV9', "cannot import name 'ResNetV9' from 'mmdet.models"),
        ('import nothing_like_this', "No module named 'nothing_like_this'; modules are looked for in .*{folder}"),
        ('import p.nothing', "No module named 'p.nothing'; 'p' is not a package; .*{folder}"),
    ],
)
def test_why_a_module_of_ones_own_is_not_imported(line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('p', 'parts'):
        sys.modules.pop(name, None)
    (tmp_path / 'p.py').write_text('')
    (tmp_path / 'parts.py').write_text(line)
    (tmp_path / 'own.py').write_text("custom_imports = dict(imports=['parts'])")
    with pytest.raises(ValueError, match='^config own.py: custom_imports: .*' + words.format(folder=tmp_path)):
        load_config('own.py')


# -- docs/mmdetection.md ----------------------------------------------------------------------------------------------

PAGE, HEADING = ROOT / 'docs/mmdetection.md', '## What is not here\n'


def the_list():
    """What mmdetection has and is not here, by package: the section of the page."""
    own, packages = own_names(), {}
    for module, wanted in names().items():
        package = '.'.join(module.split('.')[: 3 if module.startswith('mmdet.models.') else 2])
        packages.setdefault(package, set()).update(set(wanted) - own - set(contents(module)))
    lines = [
        HEADING,
        f'Public names of mmdetection 3.5.1 ({sum(map(len, names().values()))} in {len(names())} modules, recorded by',
        '`tests/data/record_names.py`) that no module here has. An import of one is refused with words that say so;',
        '`tests/test_mmdetection/test_paths.py` writes this list when it is run, and compares it as a test.',
        '',
    ]
    for package, missing in sorted(packages.items()):
        if missing:
            listed = ', '.join(f'`{name}`' for name in sorted(missing, key=str.lower))
            lines += [f'- **{package}** ({len(missing)}): {listed}']
    return '\n'.join([lines[0].rstrip('\n'), *lines[1:]]) + '\n'


def test_the_page_lists_what_is_not_here():
    page = PAGE.read_text()
    begin = page.index(HEADING)
    end = page.find('\n## ', begin)
    assert page[begin : end if end > 0 else None].strip() == the_list().strip()


if __name__ == '__main__':
    text = PAGE.read_text()
    if HEADING in text:
        text = text[: text.index(HEADING)]
    PAGE.write_text(text.rstrip('\n') + '\n\n' + the_list())
