"""mmdetection's import paths of what is here under another one, and what to say of its names that are not here."""

import importlib
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# `import mmdet` runs this: json, re and pathlib are imported where they are needed.

#: mmdetection's modules, and where their names are here
MODULES = {
    'mmdet.datasets.api_wrappers': 'pycocotools.coco pycocotools.cocoeval',
    'mmdet.datasets.transforms.transforms': 'mmdet.datasets.transforms.crop mmdet.datasets.transforms.geometry '
    'mmdet.datasets.transforms.albu mmdet.datasets.transforms.mixing mmdet.datasets.transforms.photometric '
    'mmdet.datasets.transforms.placing',
    'mmdet.evaluation.metrics': 'mmdet.evaluation',
    'mmdet.evaluation.metrics.coco_metric': 'mmdet.evaluation.coco_metric',
    'mmdet.evaluation.metrics.dump_det_results': 'mmdet.evaluation.dump',
    'mmdet.models.backbones.resnext': 'mmdet.models.backbones.resnet',
    'mmdet.models.data_preprocessors.data_preprocessor': 'mmdet.models.data_preprocessors',
    'mmdet.models.detectors.faster_rcnn': 'mmdet.models.detectors.two_stage',
    'mmdet.models.detectors.mask_rcnn': 'mmdet.models.detectors.two_stage',
    'mmdet.models.roi_heads.mask_heads': 'mmdet.models.roi_heads.fcn_mask_head',
    'mmdet.models.roi_heads.mask_heads.fcn_mask_head': 'mmdet.models.roi_heads.fcn_mask_head',
    'mmdet.models.roi_heads.roi_extractors': 'mmdet.models.roi_heads.single_level_roi_extractor',
    'mmdet.models.roi_heads.roi_extractors.single_level_roi_extractor': (
        'mmdet.models.roi_heads.single_level_roi_extractor'
    ),
    'mmdet.models.task_modules.assigners.assign_result': 'mmdet.models.task_modules.assigners.max_iou_assigner',
    'mmdet.models.task_modules.assigners.base_assigner': 'mmdet.models.task_modules.assigners.max_iou_assigner',
    'mmdet.models.task_modules.assigners.iou2d_calculator': 'mmdet.models.task_modules.assigners.max_iou_assigner',
    'mmdet.models.task_modules.coders.base_bbox_coder': 'mmdet.models.task_modules.coders.delta_xywh_bbox_coder',
    'mmdet.models.task_modules.samplers.base_sampler': 'mmdet.models.task_modules.samplers.random_sampler',
    'mmdet.models.task_modules.samplers.pseudo_sampler': 'mmdet.models.task_modules.samplers.random_sampler',
    'mmdet.models.task_modules.samplers.sampling_result': (
        'mmdet.models.task_modules.samplers.random_sampler mmdet.testing'
    ),
    'mmdet.utils.misc': 'mmdet.utils.modules',
    'mmdet.utils.setup_env': 'mmdet.utils.modules',
}


@cache
def names() -> dict[str, list[str]]:
    """The public names of each of mmdetection 3.5.1's modules, as ``tests/data/record_names.py`` found them."""
    return _read('names.json')


@cache
def methods() -> dict[str, list[str]]:
    """The methods of mmdetection 3.5.1's classes that are here too, their inherited ones among them."""
    return _read('methods.json')


def _read(name: str) -> dict[str, list[str]]:
    import json
    from pathlib import Path

    return json.loads(Path(__file__).with_name(name).read_text())


def absent(module: str, name: str) -> str:
    """Say of a name of mmdetection's that it is not in a module here, and what is."""
    there = sys.modules.get(module)
    own = sorted(getattr(there, '__all__', [one for one in names().get(module, ()) if hasattr(there, one)]))
    has = f'; {module} has {", ".join(own)}' if own else ''
    return f"{module}.{name}: mmdetection's {name} is not here{has}. docs/mmdetection.md lists what is not"


def explain(error: ImportError) -> str:
    """Say what was not to be imported: Python's own words, or of a name of mmdetection's that it is not here."""
    import re

    found = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
    return absent(found[2], found[1]) if found and found[1] in names().get(found[2], ()) else str(error)


class Finder:
    """Finds mmdetection's modules of :data:`MODULES`; it is asked last, of what there is no file of."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how the module is loaded, None of another package's.

        Raises:
            ModuleNotFoundError: a name of mmdetection's that is not here.
        """
        if fullname in MODULES:
            return ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]  # it does what a loader does
        parent, _, name = fullname.rpartition('.')
        if parent.partition('.')[0] == 'mmdet' and (fullname in names() or name in names().get(parent, ())):
            raise ModuleNotFoundError(absent(parent, name), name=parent)
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python to make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the module the public names of those that it stands for."""
        for source in MODULES[module.__name__].split():
            own = vars(importlib.import_module(source))
            module.__dict__.update({name: value for name, value in own.items() if not name.startswith('_')})


def install() -> None:
    """Let Python look for mmdetection's paths, once."""
    if not any(isinstance(one, Finder) for one in sys.meta_path):
        sys.meta_path.append(Finder())
