"""A data set whose transforms take several images."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.dataset import force_full_init

from mmdet.registry import DATASETS, TRANSFORMS


@DATASETS.register_module()
class MultiImageMixDataset:
    """Runs transforms that need further images, such as :class:`.CopyPaste`, behind a data set's own.

    A transform with ``get_indexes(dataset)``, which draws one place of the data set or several, finds their samples in
    ``results['mix_results']``.

    Args:
        dataset: a data set, or its config, whose pipeline has not packed its samples.
        pipeline: configs of the transforms.
        skip_type_keys: types of transforms that are left out.
        max_refetch: so many times other images are drawn, or a transform runs again, where it returns None.
        lazy_init: leave reading the annotations for later.

    Raises:
        TypeError: a ``pipeline`` that is no list of dicts.

    Example:
        See :class:`.CopyPaste`.
    """

    def __init__(
        self,
        dataset: Any,
        pipeline: Sequence[dict],
        skip_type_keys: Sequence[str] | None = None,
        max_refetch: int = 15,
        lazy_init: bool = False,
    ) -> None:
        if not isinstance(pipeline, (list, tuple)) or not all(isinstance(step, dict) for step in pipeline):
            raise TypeError(f'MultiImageMixDataset: pipeline must be a list of dicts, got {pipeline!r}')
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.pipeline: list[Callable] = [TRANSFORMS.build(step) for step in pipeline]
        self.pipeline_types = [step['type'] for step in pipeline]
        self.update_skip_type_keys(skip_type_keys or ())
        self.max_refetch = max_refetch
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """Return a copy of the data set's."""
        return copy.deepcopy(self.dataset.metainfo)

    def full_init(self) -> None:
        """Read the annotations."""
        self.dataset.full_init()
        self._fully_initialized = True

    def update_skip_type_keys(self, skip_type_keys: Sequence[str]) -> None:
        """Leave out the transforms of these types from now on, and no others."""
        self._skip_type_keys = tuple(skip_type_keys)

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Return what is known of a sample before it is loaded."""
        return self.dataset.get_data_info(idx)

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the labels of a sample's objects."""
        return self.dataset.get_cat_ids(idx)

    @force_full_init
    def __len__(self) -> int:
        return len(self.dataset)

    @force_full_init
    def __getitem__(self, idx: int) -> Any:
        results = copy.deepcopy(self.dataset[idx])
        for kind, transform in zip(self.pipeline_types, self.pipeline):
            if kind not in self._skip_type_keys:
                results = self._run(transform, kind, results)
        return results

    def _run(self, transform: Callable, kind: str, results: dict) -> Any:
        """What a transform makes of a sample, trying again where it makes nothing."""
        if hasattr(transform, 'get_indexes'):
            for _ in range(self.max_refetch):
                found = transform.get_indexes(self.dataset)
                others = [copy.deepcopy(self.dataset[i]) for i in (found if isinstance(found, Sequence) else [found])]
                if None not in others:
                    break
            else:
                self._fail('found no other image for', kind, results)
            results['mix_results'] = others
        for _ in range(self.max_refetch):
            made = transform(copy.deepcopy(results))
            if made is not None:
                made.pop('mix_results', None)
                return made
        return self._fail('got nothing from', kind, results)

    def _fail(self, what: str, kind: str, results: dict) -> Any:
        raise RuntimeError(
            f'MultiImageMixDataset: {self.max_refetch} times it {what} {kind} (max_refetch), for the image '
            f'{results.get("img_path")}'
        )
