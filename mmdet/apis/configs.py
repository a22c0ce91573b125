"""Configs by name, and from the text that a checkpoint holds."""

import ast
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config

from mmdet.utils.config_check import check_saved_config

#: of a checkout; an installed package has none
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def config_names() -> dict[str, list[Path]]:
    """The configs of this repository by file name without ending; there may be several with one name."""
    found = {}
    for path in sorted(CONFIGS.rglob('*.py')):
        if path.relative_to(CONFIGS).parts[0] not in ('_base_', 'common'):
            found.setdefault(path.stem, []).append(path)
    return found


def find_config(name: str) -> Path:
    """The config with this name.

    Raises:
        FileNotFoundError: ``name`` looks like a path, or there are no configs beside the package.
        KeyError: there is no such config, and the nearest names are said; or there are several.
    """
    names = config_names()
    if len(names.get(name, ())) > 1:
        raise KeyError(
            f'model {name!r}: several configs have this name; give the path of one: {", ".join(map(str, names[name]))}'
        )
    if name in names:
        return names[name][0]
    if name.endswith(('.py', '.json', '.yaml', '.yml')) or '/' in name or not names:
        raise FileNotFoundError(
            f'config {name}: no such file'
            + ('' if names else (f', and there are no configs in {CONFIGS}; give the path of a config file'))
        )
    nearest = get_close_matches(name.lower(), names, 3, 0.5)
    raise KeyError(
        f'model {name!r}: no config has this name; nearest: {", ".join(nearest) or "none"}. Give one of '
        'these or the path of a config file'
    )


class _Literals(ast.NodeTransformer):
    """Rewrites what mmengine prints of a config into literals."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        plain = isinstance(node.func, ast.Name) and node.func.id == 'dict'
        if not plain or any(word.arg is None for word in node.keywords) or len(node.args) + bool(node.keywords) > 1:
            raise ValueError(f'line {node.lineno}: {ast.unparse(node)[:60]} is no plain value')
        if node.args:  # dict({'a-b': 1}), with keys that are no names
            return self.visit(node.args[0])
        return ast.Dict(
            [ast.Constant(word.arg) for word in node.keywords], [self.visit(word.value) for word in node.keywords]
        )

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Constant(ast.unparse(node))  # a class, which a registry finds by its dotted name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        # 1e999 is read as infinity, which has no literal
        return ast.parse('1e999', mode='eval').body if node.id == 'inf' else node


def parse_config(text: str, source: str) -> Config:
    """A config from the text that mmengine writes into checkpoints.

    The text is read and not run: it holds assignments of plain values only.

    Args:
        source: where the text is from, for errors.

    Raises:
        ValueError: the text is anything else, or the config of mmdetection 2.x.
    """
    values = {}
    try:
        for statement in ast.parse(text).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(f'line {statement.lineno}: no assignment but {ast.unparse(statement)[:60]}')
            values[statement.targets[0].id] = ast.literal_eval(_Literals().visit(statement.value))
        cfg = Config(values)
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ValueError(f'{source}: its config cannot be read ({error}); give the config file') from None
    if 'model' not in values or 'test_dataloader' not in values:
        raise ValueError(
            f"{source}: its config has no 'model' or no 'test_dataloader', as those of mmdetection 2.x; "
            'give the config file'
        )
    return cfg


def saved_config(checkpoint: dict, path: str) -> Config:
    """The config with which a checkpoint was trained; build its parts within :func:`no_imports` only.

    Args:
        checkpoint: its contents. path: of the file, for errors.

    Raises:
        ValueError: it holds none that can be read, or one that names what is no registered part.
    """
    text = (checkpoint.get('meta') or {}).get('cfg')
    if not isinstance(text, str):
        raise ValueError(f"checkpoint {path}: holds no config under meta['cfg']; give the config file")
    cfg = parse_config(text, f'checkpoint {path}')
    check_saved_config(cfg, f'checkpoint {path}')
    return cfg
