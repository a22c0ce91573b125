"""Make the pages of docs/results/*.json, a folder for each: curves, tables, configs, commands.

python docs/build_results.py [--out-dir DIR]
"""

import sys
from pathlib import Path

from mmdet.comparison.report import write_report
from mmdet.comparison.results import show
from mmdet.options import make_parser
from mmdet.run.ending import run_main

DOCS = Path(__file__).parent


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument('--out-dir', type=Path, default=DOCS / '_build' / 'results', help='(default: %(default)s)')
    out = parser.parse_args(argv).out_dir
    for path in sorted((DOCS / 'results').glob('*.json')):
        print(show(path, lambda data, name=path.stem: write_report(data, out / name, title=name)))


if __name__ == '__main__':
    sys.exit(run_main(main))
