"""The commands of the documents: a few run, of the others the tool reads its options and its config is checked."""

import argparse
import functools
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import load_tool
from documents import BLOCKS, DOCUMENTS, ROOT, commands
from mmengine.config import Config

from mmdet.cli import main as cli
from mmdet.comparison.grid import find_norms
from mmdet.config import check_model_config, load_config
from mmdet.config.check import check_parts
from mmdet.run.ending import run_main

# Tools that run here as the document says. The others are parsed, their configs read and checked.
RUN = {  # tool: what is added to make it short
    'tools/print_config.py': [],
    'tools/dataset_converters/make_shapes.py': ['--train', '4', '--val', '2'],
    'tools/model_converters/publish_model.py': [],
    'docs/build_results.py': ['--out-dir', 'pages'],
}
ONLY_PARSED = {
    'tools/deployment/export.py': 'half a minute; run in tests/test_export',
    'tools/benchmarks/run.py': 'half an hour, and a peer; run in tests/test_tools/test_beside_others.py',
    'tools/train.py': 'trains for minutes to days; tests/test_tools/test_train_and_test.py runs it on a tiny config',
    'tools/test.py': 'needs the data; tests/test_tools/test_train_and_test.py runs it on a tiny config',
    'tools/compare_norms.py': 'hours; run in tests/test_comparison/test_compare_norms.py',
    'tools/misc/check_dataset.py': 'needs the data; run in tests/test_analysis/test_dataset.py',
    'demo/image_demo.py': 'needs trained weights; run in tests/test_demo',
    'demo/video_demo.py': 'likewise',
    'tools/analysis_tools/browse_dataset.py': 'needs the data; run in tests/test_tools/test_browse_dataset.py',
    'tools/analysis_tools/analyze_logs.py': 'needs logs; run in tests/test_tools/test_analyze_logs.py',
    'tools/analysis_tools/confusion_matrix.py': 'needs results; run in tests/test_tools/test_confusion_matrix.py',
    'tools/analysis_tools/analyze_results.py': 'needs results; run in tests/test_tools/test_analyze_results.py',
    'tools/analysis_tools/eval_metric.py': 'needs results; run in tests/test_tools/test_train_and_test.py',
    'tools/analysis_tools/coco_error_analysis.py': 'needs results; run in tests/test_analysis/test_errors.py',
    'tools/analysis_tools/get_flops.py': 'seconds to minutes; run in tests/test_analysis/test_flops.py',
    'tools/analysis_tools/benchmark.py': 'minutes; run in tests/test_tools/test_benchmark.py',
    'tools/dataset_converters/pascal_voc.py': 'needs Pascal VOC; run in tests/test_tools/test_converters.py',
    'tools/model_converters/torchvision2mmdet.py': 'weights; run in tests/test_tools/test_torchvision2mmdet.py',
    'tools/analysis_tools/optimize_anchors.py': 'needs the data; run in tests/test_analysis/test_anchors.py',
    'tools/analysis_tools/find_lr.py': 'needs the data; run in tests/test_analysis/test_rates.py',
    'tools/analysis_tools/small_batch.py': 'minutes; run in tests/test_tools/test_small_batch.py',
    'tools/analysis_tools/cbn_fidelity.py': 'needs the data; run in tests/test_tools/test_norm_tools.py',
    'tools/analysis_tools/image_statistics.py': 'needs the data; run in tests/test_tools/test_image_statistics.py',
    'tools/analysis_tools/norm_statistics.py': 'a trained model; run in tests/test_tools/test_norm_statistics.py',
    'tools/benchmarks/norm_layer.py': 'minutes; run in tests/test_tools/test_norm_tools.py',
    'tools/benchmarks/train_step.py': 'minutes; run in tests/test_tools/test_norm_tools.py',
}
# Commands that are no tool of this repository: what is looked at instead of running them.
OTHERS = {
    'python -m sphinx': 'test_pages.py builds the pages',
    'tensorboard': 'runs until it is stopped',
    'pip': 'downloads: the extras that it names must exist',
    'pytest': 'runs as the test suite: the paths that it names must exist',
    'source': "changes a user's shell",
    'cd': "changes a user's shell",
    'git': 'downloads',
    'ln': "changes a user's files",
    'apt-get': "changes a user's system",
    'mkdir': "changes a user's files",
    'mmdet': 'shows what there is',
    'python -m mmdet': 'likewise',
    'cp': 'likewise: what is copied must exist',
}
# The script that opens each command's module.
DOORS = {
    re.search(r'^from (mmdet\.\S+) import main$', path.read_text(), re.M).group(1): str(path.relative_to(ROOT))
    for path in [*ROOT.glob('tools/**/*.py'), *ROOT.glob('demo/*.py')]
    if 'import main' in path.read_text()
}
# What stands in for words in capitals.
FILLED_IN = {'CONFIG': 'configs/shapes/mask-rcnn_r18_fpn_cbn.py', 'CHECKPOINT': 'checkpoint.pth'}
# Keys that a config need not have before --cfg-options sets them.
NEW_KEYS = (
    'k',
    'KEY',
    'randomness.seed',
    'default_hooks.checkpoint.by_epoch',
    'find_unused_parameters',
    'test_evaluator.outfile_prefix',
    'optim_wrapper.dtype',
    'skip_nonfinite',
    'train_dataloader.dataset.skip_broken',
)


# page and line, then the words, of every command in a shell block or in a line's code
COMMANDS = [(block.place, words) for block in BLOCKS if block.language == 'shell' for words in commands(block.text)]
COMMANDS += [
    (page, words)
    for page, document in DOCUMENTS.items()
    for code in document.codes
    if re.match(r'python |mmdet [a-z]|\./tools/|pytest |pip ', code)
    for words in commands(code)
]
COMMANDS = list({tuple(words): (origin, words) for origin, words in reversed(COMMANDS)}.values())[::-1]


class Parsed(Exception):
    """Carries what a tool's parser has read."""


def parse(tool: str, words: list[str], monkeypatch) -> argparse.Namespace:
    """What a tool makes of its command line, without running it."""
    monkeypatch.syspath_prepend(str((ROOT / tool).parent))
    monkeypatch.setattr(sys, 'argv', [tool, *words])
    module = load_tool(tool)
    if hasattr(module, 'parse_args'):
        args = module.parse_args()
        return args[0] if isinstance(args, tuple) else args
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *args, **kwargs):
        raise Parsed(original(parser, *args, **kwargs))

    with monkeypatch.context() as patch, pytest.raises(Parsed) as parsed:
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
        module.main()
    return parsed.value.args[0]


@functools.lru_cache
def checked_config(config: str) -> Config:
    """A config that names parts and arguments that there are; not to be changed."""
    cfg = load_config(config)
    check_model_config(cfg)
    check_parts(cfg, ('train', 'val', 'test'))
    return cfg


def check_settings(config: str, settings: dict) -> None:
    """Every key of ``--cfg-options`` is one that the config has, or of NEW_KEYS, and the config stays a good one."""
    cfg = checked_config(config)
    for key in settings:
        node = cfg
        for part in key.split('.') if key not in NEW_KEYS else ():
            node = node[int(part)] if part.isdigit() else node.get(part, Parsed)
            assert node is not Parsed, f'--cfg-options {key}: {config} has no such key'
    if set(settings) - {'k', 'KEY'}:
        cfg = load_config(config, settings)
        check_model_config(cfg)
        check_parts(cfg, ('train', 'val', 'test'))


def check_tool(tool: str, words: list[str], monkeypatch, capsys) -> None:
    """Parse a tool's command line, check its config and settings, and run it if it is one of RUN."""
    assert Path(tool).is_file(), f'{tool}: no such file'
    assert tool in RUN or tool in ONLY_PARSED, f'{tool}: add it to RUN, or with a reason to ONLY_PARSED'
    words = [FILLED_IN.get(word, word).replace('/path/to/mmdetection', str(ROOT)) for word in words]
    # an earlier command's work
    words = [FILLED_IN['CONFIG'] if re.match(r'work_dirs/.*/config\.py$', word) else word for word in words]
    for word in words:
        assert not word.endswith('.py') or Path(word).is_file(), f'{word}: no such file'
    try:
        args = parse(tool, words, monkeypatch)
    except SystemExit as end:
        printed = capsys.readouterr().err.splitlines() or ['']
        assert end.code == 0, f'{tool} {" ".join(words)}: {printed[-1]}'
        return
    if getattr(args, 'config', None) in words:
        check_settings(args.config, getattr(args, 'cfg_options', None) or {})
    if tool == 'tools/compare_norms.py':
        find_norms(args.norms, checked_config(args.config))
    if tool in RUN:
        for word in words:
            if word == 'IN' or re.search(r'epoch_\d+\.pth$', word) and not Path(word).exists():
                Path(word).parent.mkdir(parents=True, exist_ok=True)
                Path(word).symlink_to(Path('checkpoint.pth').resolve())
        assert run_main(lambda: load_tool(tool).main(words + RUN[tool])) == 0, capsys.readouterr().err[-2000:]


def check_script(script: str, words: list[str], monkeypatch, capsys) -> None:
    """A shell script is there; the launchers' options are those of the tool that they start."""
    assert os.access(script, os.X_OK), f'{script}: no such script'
    source = Path(script).read_text()
    tool = re.search(r'/(\w+\.py)" "\$config"', source)
    slurm = re.search(r'slurm.sh" "\$partition" "\$name" (\w+\.py) "\$config" (--work-dir)?', source)
    if '--max-restarts' in words and '--max-restarts' in source:
        at = words.index('--max-restarts')
        assert words[at + 1].isdigit(), f'{script}: --max-restarts {words[at + 1]}'
        words = words[:at] + words[at + 2 :]
    if slurm:  # PARTITION JOB_NAME CONFIG, then WORK_DIR or CHECKPOINT
        check_tool(
            f'tools/{slurm.group(1)}', [words[2], *filter(None, slurm.groups()[1:]), *words[3:]], monkeypatch, capsys
        )
    elif tool:
        positional = 1 + (tool.group(1) == 'test.py')
        assert words[positional].isdigit() or words[positional] == 'GPUS', f'{script}: GPUS is {words[positional]!r}'
        check_tool(f'tools/{tool.group(1)}', words[:positional] + words[positional + 1 :], monkeypatch, capsys)
    elif words and '[GPUS]' in source:
        assert words[0].isdigit(), f'{script}: GPUS is {words[0]!r}'
    elif words and not (script.endswith('run_tests.sh') and words[0] == '-m'):
        choices = re.search(r'(?:WHAT|OPTION): (.*)', source)
        assert choices and words[0] in re.findall(r'[\w-]+', choices.group(1)), f'{script}: {words[0]!r}'


def check_other(program: str, words: list[str]) -> None:
    assert OTHERS.get(program), f'{program}: add it with a reason to OTHERS'
    if program == 'pytest':
        assert all((ROOT / word).exists() for word in words if '/' in word), words
    if program == 'cp':
        assert (ROOT / words[0]).exists(), f'cp: no file {words[0]}'
    if program == 'pip':
        extras = re.search(r'extras_require=(.*)\)', (ROOT / 'setup.py').read_text(), re.S).group(1)
        named = re.findall(r'[\w-]+', ''.join(re.findall(r'\[(.*?)\]', ' '.join(words))))
        assert all(f"'{extra}': [" in extras for extra in named), f'setup.py has not all extras of {named}'


def check(words: list[str], monkeypatch, capsys) -> None:
    program, *rest = words = [words[0].removeprefix('.venv/bin/'), *words[1:]]
    if words[:2] == ['python', '-c']:
        exec(rest[1], {})
    elif program == 'mmdet' and rest[0] != 'COMMAND':
        name = next((name for name in cli.COMMANDS if rest[: name.count(' ') + 1] == name.split()), None)
        assert name, f'mmdet {" ".join(rest)}: no such command'
        arguments = rest[name.count(' ') + 1 :]
        if not all(word.startswith('-') for word in arguments):  # else it is only mentioned
            check_tool(DOORS[cli.COMMANDS[name][0]], arguments, monkeypatch, capsys)
    elif program == 'python' and rest[0] != '-m':
        check_tool(rest[0], rest[1:], monkeypatch, capsys)
    elif program.endswith('.sh'):
        check_script(program, rest, monkeypatch, capsys)
    else:
        check_other(' '.join(words[:3]) if program == 'python' else program, rest)


@pytest.mark.parametrize('origin, words', COMMANDS, ids=[f'{page}-{" ".join(words)[:60]}' for page, words in COMMANDS])
def test_command(origin, words, place, monkeypatch, capsys):
    check(words, monkeypatch, capsys)


@pytest.mark.parametrize(
    'command, why',
    [
        ('python tools/trian.py CONFIG', 'trian.py: no such file'),
        ('mmdet trian CONFIG', 'no such command'),
        ('mmdet train CONFIG --ressume', 'unrecognized arguments: --ressume'),
        ('python tools/train.py configs/nuclei/mask-rcnn_r18_cbn.py', 'mask-rcnn_r18_cbn.py: no such file'),
        ('python tools/train.py CONFIG --ressume', 'unrecognized arguments: --ressume'),
        ('python tools/train.py CONFIG --cfg-options train_dataloader.batchsize=1', 'has no such key'),
        ('python tools/train.py CONFIG --cfg-options model.neck.type=FPM', "there is no 'FPM'"),
        ('python tools/test.py CONFIG', 'the following arguments are required: checkpoint'),
        ('python tools/compare_norms.py CONFIG --norms BN GNN', 'GNN'),
        ('./tools/dist_train.sh CONFIG --resume', 'GPUS'),
        ('./tools/dist_test.sh CONFIG 4 CHECKPOINT', 'GPUS'),
        ('./tools/dist_train.sh CONFIG 4 --max-restarts x', 'max-restarts'),
        ('./tools/slurm_train.sh P N CONFIG W --ressume', 'unrecognized'),
        ('./tools/demo.sh cnb', 'cnb'),
        ('./tools/dist_trian.sh CONFIG 4', 'no such script'),
        ("pip install -e '.[test]'", 'extras'),
        ('pytest tests/test_dcos', 'tests/test_dcos'),
        ('conda install x', 'conda'),
    ],
)
def test_wrong_command_is_found(command, why, place, monkeypatch, capsys):
    with pytest.raises((AssertionError, pytest.fail.Exception, KeyError), match=why):
        check(*commands(command), monkeypatch, capsys)


def test_every_tool_of_the_lists_is_there():
    assert set(DOORS) == {module for module, _ in cli.COMMANDS.values()}
    assert [tool for tool in (*RUN, *ONLY_PARSED) if not (ROOT / tool).is_file()] == []
    named = [path for reason in ONLY_PARSED.values() for path in re.findall(r'tests/[\w/.]+', reason)]
    assert [path for path in named if not (ROOT / path).exists()] == []
