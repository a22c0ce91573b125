"""mmdet COMMAND: finds the command's module, and runs it."""

import sys
from importlib import import_module

from mmdet.words import nearest

#: command: the module whose ``main(argv)`` runs it, and what it does
COMMANDS = {
    'train': ('mmdet.cli.train', 'train a detector'),
    'test': ('mmdet.cli.test', 'COCO AP of a checkpoint'),
    'predict': ('mmdet.cli.predict', 'detect objects in images: pictures and JSON'),
    'video': ('mmdet.cli.video', 'detect objects in a video'),
    'compare': ('mmdet.comparison.command', 'train with several norms, batch sizes and seeds; one page'),
    'export': ('mmdet.export.command', 'a detector for other programs: ONNX, TorchScript, torch.export'),
    'config': ('mmdet.cli.config', 'print a config with its bases merged'),
    'data check': ('mmdet.analysis.dataset', 'what is wrong with annotations and images; a file without it'),
    'data browse': ('mmdet.analysis.browse', 'draw what a model is fed'),
    'data statistics': ('mmdet.analysis.image_statistics', 'mean, std and likeness of images: will BN do?'),
    'data shapes': ('mmdet.converters.shapes', 'make the synthetic shapes set'),
    'analyze logs': ('mmdet.analysis.curves', 'curves of losses and AP, seconds an iteration'),
    'analyze confusion': ('mmdet.analysis.confusion', 'which class is taken for which'),
    'analyze results': ('mmdet.analysis.results', 'score saved detections; the hardest images'),
    'analyze errors': ('mmdet.analysis.errors', 'what keeps AP down'),
    'analyze lr': ('mmdet.analysis.rates', 'a learning rate: where the loss falls as the rate grows'),
    'analyze anchors': ('mmdet.analysis.anchors', 'anchors that fit the boxes of a data set'),
    'analyze flops': ('mmdet.analysis.flops', 'multiply-adds and parameters by module'),
    'analyze speed': ('mmdet.analysis.speed', 'images a second, of the model or the data loader'),
    'analyze norms': ('mmdet.analysis.norm_statistics', 'AP with running, own and recomputed statistics'),
    'analyze fidelity': ('mmdet.analysis.fidelity', "how far CBN's carried statistics are from the true ones"),
    'analyze digits': ('mmdet.analysis.small_batch', 'norms with small batches on 8x8 digits, in minutes'),
    'benchmark': ('mmdet.analysis.benchmark', 'how fast this is beside torchvision and mmdetection'),
    'convert publish': ('mmdet.converters.publish', 'the weights of a checkpoint alone, ready to hand out'),
    'convert torchvision': ('mmdet.converters.torchvision', "torchvision's Faster and Mask R-CNN to a checkpoint"),
    'convert voc': ('mmdet.converters.pascal_voc', "Pascal VOC's annotations to COCO's"),
}


def usage(group: str = '') -> str:
    """The commands, or those of a group, one a line."""
    shown = {name: about for name, (_, about) in COMMANDS.items() if name.startswith(group)}
    width = max(map(len, shown))
    lines = '\n'.join(f'  mmdet {name:{width}}  {about}' for name, about in shown.items())
    return f'usage: mmdet COMMAND ...\n\n{lines}\n\nmmdet COMMAND --help has the options of each.'


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first words name; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    groups = {name.partition(' ')[0] for name in COMMANDS if ' ' in name}
    group = words[0] if words and words[0] in groups else ''
    name = ' '.join(words[: 2 if group else 1])
    if words[:1] == ['--version']:
        from mmdet.version import __version__

        print(f'mmdet {__version__}')
        return 0
    if name not in COMMANDS:
        if words[len(group.split()) :][:1] in ([], ['-h'], ['--help'], ['help']):
            print(usage(group))
            return 0 if words else 2
        print(f'error: there is no command {name!r}{nearest(name, COMMANDS)}; mmdet --help lists them', file=sys.stderr)
        return 2
    # the parsers' usage, and what a command says of how it was called
    sys.argv = [f'mmdet {name}', *words[len(name.split()) :]]
    if {'-h', '--help'} & set(words):
        return import_module(COMMANDS[name][0]).main()
    from mmdet.run.ending import run_main

    return run_main(lambda: import_module(COMMANDS[name][0]).main())
