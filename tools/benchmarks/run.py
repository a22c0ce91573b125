"""As ``mmdet benchmark``."""

import sys

from mmdet.analysis.benchmark import main
from mmdet.run.ending import run_main

if __name__ == '__main__':
    sys.exit(run_main(main))
