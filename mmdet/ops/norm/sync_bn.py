"""SyncBN that also works where there is no CUDA."""

import warnings

import torch
from torch import Tensor, nn

from .kernels import batch_stats, positions
from .pooled_norm import PooledNorm, Step, pool_processes, syncs, update_running_stats


class SyncBN(nn.SyncBatchNorm):
    """torch's SyncBatchNorm; on the CPU, where torch has none, CBN's without earlier batches.

    In a process alone it is BN. Shape: (N, C, ...) in and out; a rank may have no position at all.
    """

    _abbr_ = 'bn'

    def forward(self, y: Tensor) -> Tensor:
        if y.is_cuda or not self.training:
            return super().forward(y)
        warnings.warn('SyncBN: no CUDA here: all-reduce between several processes, BN in a single one', stacklevel=2)
        # torch's own forward refuses the CPU in any process group, also in one of a single process.
        return self._synced(y) if syncs(self.process_group) else super(nn.SyncBatchNorm, self).forward(y)

    def _synced(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            pool = pool_processes(*batch_stats(y), positions(y), group=self.process_group)
            if self.track_running_stats:
                mean, var, count = pool.batch
                update_running_stats(self, mean, var, count, seen=count > 0)
        return PooledNorm.apply(y, self.weight, self.bias, Step(pool, self.eps, True, self.process_group))
