"""mmdet data check, by the name of a script."""

import sys

from mmdet.analysis.dataset import main
from mmdet.run.ending import run_main

if __name__ == '__main__':
    sys.exit(run_main(main))
