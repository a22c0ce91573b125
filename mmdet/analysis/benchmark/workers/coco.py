"""COCO's numbers by pycocotools, from detections in its own form."""

import contextlib
import io
import json
from pathlib import Path

import serve
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def evaluate(settings):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(settings['annotations'])
    detections = json.loads(Path(settings['results']).read_text())

    def work():
        numbers = []
        with contextlib.redirect_stdout(io.StringIO()):
            for kind in settings['kinds']:
                # loadRes writes into what it is given, and takes an object with a box for one without a mask.
                own = [
                    {key: value for key, value in one.items() if key != ('segmentation', 'bbox')[kind == 'segm']}
                    for one in detections
                ]
                evaluation = COCOeval(truth, truth.loadRes(own), kind)
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                numbers.extend(evaluation.stats.tolist())
        return numbers

    return work


if __name__ == '__main__':
    serve.main(evaluate)
