"""What the text of a merged config says, read without running it, and where two differ in what a training does."""

import ast
from collections.abc import Iterator
from typing import Any

#: keys whose values change no training: where results go, what is shown, names for other tools
SILENT = {
    'work_dir',
    'outfile_prefix',
    'visualizer',
    'vis_backends',
    'log_level',
    'log_processor',
    'norm_cfgs',
    'test_dataloader',
    'test_evaluator',
    'test_cfg',
    'test_pipeline',
    *(f'default_hooks.{hook}' for hook in ('logger', 'checkpoint', 'timer', 'visualization', 'progress')),
}


class _Literals(ast.NodeTransformer):
    """Rewrites what mmengine prints of a config into literals."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict':
            raise ValueError(f'line {node.lineno}: {ast.unparse(node)[:60]} is no plain value')
        found = ast.Dict([], [])
        # dict({'b c': 2}) or dict(**{'b c': 2}) is how keys are written that are no names
        for part in [*node.args, *(word.value for word in node.keywords if word.arg is None)]:
            inner = self.visit(part)
            if not isinstance(inner, ast.Dict) or None in inner.keys:
                raise ValueError(f'line {node.lineno}: {ast.unparse(node)[:60]} is no plain value')
            found.keys += inner.keys
            found.values += inner.values
        for word in node.keywords:
            if word.arg is not None:
                found.keys.append(ast.Constant(word.arg))
                found.values.append(self.visit(word.value))
        return found

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Constant(ast.unparse(node))  # a class, which a registry finds by its dotted name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        # 1e999 is read as infinity, which has no literal
        return ast.parse('1e999', mode='eval').body if node.id == 'inf' else node


def config_values(text: str) -> dict:
    """Keys and values of a config as mmengine writes it (``Config.pretty_text``); classes are their dotted names.

    Raises:
        ValueError: the text is anything else than assignments of plain values.
    """
    values = {}
    try:
        for statement in ast.parse(text).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(f'line {statement.lineno}: no assignment but {ast.unparse(statement)[:60]}')
            values[statement.targets[0].id] = ast.literal_eval(_Literals().visit(statement.value))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f'not the text of a merged config: {error}') from None
    return values


def differences(old: str, new: str) -> Iterator[str]:
    """'KEY: OLD, now NEW' for where two texts of merged configs differ, but for the keys of :data:`SILENT`.

    Raises:
        ValueError: as :func:`config_values`.
    """
    return _differences(config_values(old), config_values(new), '')


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            inner = f'{path}.{key}' if path else str(key)
            if key not in SILENT and inner not in SILENT:
                if key in old and key in new:
                    yield from _differences(old[key], new[key], inner)
                else:
                    yield f'{inner}: {old.get(key, "not set")!r}, now {new.get(key, "not set")!r}'
    elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new)):
            yield from _differences(*pair, f'{path}.{number}')
    elif old != new:
        yield f'{path}: {old!r}, now {new!r}'
