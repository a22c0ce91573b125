"""What the text of a merged config says, without running it; where two differ in what a training does."""

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


def config_values(text: str) -> dict:
    """Keys and values of a config as mmengine writes it (``Config.pretty_text``).

    Raises:
        ValueError: the text is anything else than assignments of dicts, lists, tuples and constants.
    """
    try:
        return {line.targets[0].id: _value(line.value) for line in ast.parse(text).body}  # type: ignore
    except (AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f'not the text of a merged config: {error}') from None


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict':
            raise ValueError(f'{ast.unparse(node)} is no dict')
        # dict({'b c': 2}) or dict(**{'b c': 2}) is how keys are written that are no names
        result = {key: value for argument in node.args for key, value in _value(argument).items()}
        for word in node.keywords:
            result.update({word.arg: _value(word.value)} if word.arg else _value(word.value))
        return result
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values) if key is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def first_difference(old: str, new: str) -> str | None:
    """'KEY: OLD, now NEW' for two texts of merged configs, but for the keys of :data:`SILENT`; None if there is none.

    Raises:
        ValueError: as :func:`config_values`.
    """
    return next(_differences(config_values(old), config_values(new), ''), None)


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            inner = f'{path}.{key}' if path else str(key)
            if key not in SILENT and inner not in SILENT:
                if key in old and key in new:
                    yield from _differences(old[key], new[key], inner)
                else:
                    yield f'{inner}: {old.get(key, "not set")!r}, now {new.get(key, "not set")!r}'
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new)):
            yield from _differences(*pair, f'{path}.{number}')
    elif old != new:
        yield f'{path}: {old!r}, now {new!r}'
