"""Detect objects in images: pictures go to OUT/vis, detections to OUT/preds.

mmdet predict IMG CONFIG CHECKPOINT
"""

import glob
import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

from rich.pretty import pprint

from mmdet.apis import DetInferencer
from mmdet.apis.det_inferencer import ENDINGS, unique_names
from mmdet.config import config_names
from mmdet.options import add_device, add_trust_checkpoint, make_parser, number, whole
from mmdet.run.progress import track
from mmdet.visualization import check_display

#: of a clone; an installed package has no demo/
ROOT = Path(__file__).resolve().parents[2]
CONFIG_ENDINGS = ('.py', '.json', '.yaml', '.yml')
USAGE = """%(prog)s                                     in a clone: a model of this repository on its sample images
       %(prog)s IMG ...                             the same model on your images
       %(prog)s IMG ... CONFIG CHECKPOINT           or CONFIG --weights CHECKPOINT
       %(prog)s IMG ... NAME                        a config of mmdet, with the weights that are published for it
       %(prog)s IMG ... CHECKPOINT                  the config is in the checkpoint"""


def models() -> dict[str, dict]:
    """The trained models of a clone: config, weights, their sha256 (None: not compared), sample images; paths from its
    root."""
    table = ROOT / 'demo' / 'models.json'
    return json.loads(table.read_text()) if table.is_file() else {}


def parse_args(argv=None):
    parser = make_parser(__doc__, usage=USAGE)
    parser.add_argument(
        'inputs',
        nargs='*',
        metavar='IMG ... CONFIG CHECKPOINT',
        help="files, folders or globs; then a config (a file or one of this repository's names) and a checkpoint",
    )
    parser.add_argument(
        '--weights',
        metavar='CHECKPOINT',
        help='checkpoint, or the name of a config with published weights, if it does not come after the config',
    )
    parser.add_argument('--model', choices=models(), help='a trained model of this repository (default: nuclei)')
    parser.add_argument('--out-dir', default='outputs', metavar='OUT', help='(default: outputs)')
    add_device(parser)
    parser.add_argument(
        '--pred-score-thr',
        type=number(0, 1),
        default=0.3,
        metavar='SCORE',
        help='detections with a lower score are not drawn (default: 0.3)',
    )
    parser.add_argument('--batch-size', type=whole(1), default=1, help='images at a time (default: 1)')
    parser.add_argument('--show', action='store_true', help='show the pictures in windows; the space key goes on')
    parser.add_argument('--no-save-vis', action='store_true', help='write no pictures')
    parser.add_argument('--no-save-pred', action='store_true', help='write no detections')
    parser.add_argument('--print-result', action='store_true', help='print the detections')
    parser.add_argument(
        '--palette',
        default='none',
        choices=['coco', 'voc', 'citys', 'random', 'none'],
        help="colours of the classes (default: none, the checkpoint's or config's)",
    )
    add_trust_checkpoint(parser)
    args = parser.parse_intermixed_args(argv)
    args.config, checkpoint = split_inputs(args.inputs)
    if checkpoint and args.weights:
        parser.error(f'two checkpoints, {checkpoint} and --weights {args.weights}')
    args.weights = checkpoint or args.weights
    own = args.config or args.weights
    if own and args.model:
        parser.error(f'--model {args.model} is a whole model, so {own} cannot be one; leave out either')
    if own and not args.inputs:
        parser.error(f'no images to try {own} on')
    if args.config and not args.weights and args.config.endswith(CONFIG_ENDINGS):
        parser.error(f'{args.config} needs a checkpoint: IMG CONFIG CHECKPOINT')
    return args


def split_inputs(words):
    """Take a config and a checkpoint off the end of ``words``, in place; None where there is none."""
    checkpoint = words.pop() if words and words[-1].endswith(('.pth', '.pt', '.safetensors')) else None
    config = words.pop() if words and is_config(words[-1], alone=len(words) == 1 and not checkpoint) else None
    if config in config_names() and not checkpoint and words and is_config(words[-1], alone=len(words) == 1):
        config, checkpoint = words.pop(), config  # by its name
    return config, checkpoint


def is_config(word, alone):
    if word.endswith(CONFIG_ENDINGS):
        return True
    if os.path.exists(word) or glob.has_magic(word) or word.lower().endswith(ENDINGS):
        return False
    return word in config_names() or not (alone or '/' in word)


def find_images(words):
    """The images that files, folders and globs stand for, and a sentence for each that stands for none."""
    images, problems = [], []
    for word in words:
        if os.path.isdir(word):
            found = sorted(str(path) for path in Path(word).iterdir() if path.suffix.lower() in ENDINGS)
            problem = f'folder {word}: holds no images ({" ".join(ENDINGS)})'
        elif os.path.isfile(word):
            found, problem = [word], None
        elif glob.has_magic(word):
            found = sorted(
                path
                for path in glob.glob(word, recursive=True)
                if path.lower().endswith(ENDINGS) and os.path.isfile(path)
            )
            problem = f'{word}: no image has such a name'
        else:
            found, problem = [], f'{word}: no such file or folder'
        images += found
        if not found:
            problems.append(problem)
    return images, problems


def bundled(name):
    """Path of a trained model's weights and of its sample images.

    Raises:
        FileNotFoundError, ValueError: the weights are not there, or not those that the table names.
    """
    if name not in models():
        raise FileNotFoundError(
            f'model {name}: the trained models come with the repository, not with the package; give a model of your '
            'own: IMG CONFIG CHECKPOINT'
        )
    entry = models()[name]
    weights = ROOT / entry['weights']
    if not weights.is_file():
        raise FileNotFoundError(
            f'model {name}: {weights} is not there. It is part of the repository: git checkout -- {entry["weights"]}; '
            'or give a model of your own: IMG CONFIG CHECKPOINT'
        )
    if entry['sha256'] and hashlib.sha256(weights.read_bytes()).hexdigest() != entry['sha256']:
        raise ValueError(
            f'model {name}: {weights} is damaged or another one: its sha256 is not that of '
            f'demo/models.json, {entry["sha256"]}'
        )
    return str(weights), [str(ROOT / image) for image in entry['images']]


def detect(inferencer, images, args):
    """Detect, draw and write, a line for each image; returns a sentence for each image that cannot be read."""
    problems = []

    def skip(image, error):
        problems.append(str(error))
        print(error)

    classes = inferencer.model.dataset_meta['classes']
    batches = inferencer.batches(images, unique_names(images, 0, warn=True), args.batch_size, skip)
    for some, names, samples in track(batches, 'detecting', -(-len(images) // args.batch_size)):
        if args.show or not args.no_save_vis:
            inferencer.visualize(
                some,
                samples,
                names,
                args.show,
                pred_score_thr=args.pred_score_thr,
                out_dir='' if args.no_save_vis else args.out_dir,
            )
        results = inferencer.postprocess(samples, names, out_dir='' if args.no_save_pred else args.out_dir)
        for image, sample, result in zip(some, samples, results):
            found = sample.pred_instances
            labels = found.labels[found.scores > args.pred_score_thr].tolist()
            counts = [f'{number} x {classes[label]}' for label, number in Counter(labels).most_common()]
            print(f'{image}: {", ".join(counts) or "nothing found"}')
            if args.print_result:
                pprint(result)
    return problems


def main(argv=None):
    args = parse_args(argv)
    if args.show:
        check_display('leave out --show, the pictures are written into --out-dir')
    if not args.config and not args.weights:
        args.weights, samples = bundled(args.model or 'nuclei')
        args.inputs = args.inputs or samples
    images, problems = find_images(args.inputs)
    if not images:
        raise FileNotFoundError('; '.join(problems))
    inferencer = DetInferencer(
        args.config,
        args.weights,
        args.device,
        palette=args.palette,
        show_progress=False,
        trust_checkpoint=args.trust_checkpoint,
    )
    unreadable = detect(inferencer, images, args)
    number = len(images) - len(unreadable)
    kept = [
        f'{what} in {os.path.join(args.out_dir, folder)}'
        for left_out, what, folder in (
            (args.no_save_vis, f'{number} picture{"s" * (number != 1)}', 'vis'),
            (args.no_save_pred, 'detections', 'preds'),
        )
        if not left_out and number
    ]
    if kept:
        print(', '.join(kept))
    problems += unreadable
    if problems:
        sys.exit(f'error: {len(problems)} of the inputs could not be read: ' + '; '.join(problems))
