"""A config that is made: its values, and the text of a file with a base that has them."""

import keyword
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode  # type: ignore[import-untyped]

#: the file's paragraphs; other names are in a last one
PARAGRAPHS = (
    ('work_dir', 'load_from'),
    ('data_root', 'metainfo', 'image_scale', 'train_pipeline', 'test_pipeline'),
    ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator'),
    ('model',),
    ('optim_wrapper', 'auto_scale_lr', 'train_cfg', 'param_scheduler', 'default_hooks', 'log_processor'),
)
#: names that stand for what they are in the lines behind
NAMED = (*PARAGRAPHS[1], 'val_dataloader', 'val_evaluator')
STYLE = dict(based_on_style='pep8', column_limit=120, dedent_closing_brackets=True)


class ConfigFile:
    """A config, and what of it its file says beside the base's."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.values: dict = {}
        self.comments: dict[str, str] = {}

    def set(self, values: dict, comment: str = '') -> None:
        """Set dotted keys; the comment is the first one's."""
        self.cfg.merge_from_dict(deepcopy(values))  # it takes '_delete_' out of them
        for path, value in values.items():
            keys, node = path.split('.'), self.cfg.to_dict()
            for i, key in enumerate(keys):
                if isinstance(node, (list, tuple)):  # of which a file that has a base says all or nothing
                    keys, value = keys[:i], node
                    break
                node = node.get(key)
            place = self.values
            for key in keys[:-1]:
                place = place.setdefault(key, {})
            place[keys[-1]] = value
        if comment:
            self.comments[next(iter(values)).partition('.')[0]] = comment

    def text(self, head: str, base: str) -> str:
        """The file's text, in which names stand for values that are there before."""
        lines = [f'# {head}', f'_base_ = {base!r}']
        known: dict[str, Any] = {}
        others = tuple(name for name in self.values if not any(name in names for names in PARAGRAPHS))
        for names in (*PARAGRAPHS, others):
            lines.append('')
            for name in names:
                if name in self.values:
                    lines += [f'# {self.comments[name]}'] if name in self.comments else []
                    lines.append(f'{name} = {_code(self.values[name], known)}')
                    known.update({name: self.values[name]} if name in NAMED else {})
        return FormatCode('\n'.join(lines) + '\n', style_config=STYLE)[0]


def _code(value: Any, known: dict[str, Any]) -> str:
    """A value as it is written in a config, after those that are known by a name."""
    for name, other in known.items():
        if value == other and type(value) is type(other):
            return name
        if name == 'data_root' and isinstance(value, str) and value.startswith(other):
            return f'data_root + {value.removeprefix(other)!r}'
    if isinstance(value, dict):
        parts = {key: _code(one, known) for key, one in value.items()}
        if all(str(key).isidentifier() and not keyword.iskeyword(key) for key in parts):
            return f'dict({", ".join(f"{key}={one}" for key, one in parts.items())})'
        return f'{{{", ".join(f"{key!r}: {one}" for key, one in parts.items())}}}'
    if isinstance(value, list):
        return f'[{", ".join(_code(one, known) for one in value)}]'
    if isinstance(value, tuple):
        # a comma behind the last of several would have them one a line
        return f'({", ".join(_code(one, known) for one in value)}{"," * (len(value) == 1)})'
    return repr(value)
