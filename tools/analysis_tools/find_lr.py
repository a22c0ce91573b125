"""mmdet analyze lr."""

import sys

from mmdet.analysis.rates import main
from mmdet.run.ending import run_main

if __name__ == '__main__':
    sys.exit(run_main(main))
