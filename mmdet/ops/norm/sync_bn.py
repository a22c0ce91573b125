"""SyncBN that also works where there is no CUDA."""
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .kernels import batch_stats
from .pooled_norm import PooledNorm, pool_batch, syncs, update_running_stats

_said: set = set()


class SyncBN(nn.SyncBatchNorm):
    """torch's SyncBatchNorm; on the CPU, where torch has none, CBN's without earlier batches.

    In a process alone it is BN. Shape: (N, C, ...) in and out; a rank may have no position at all.
    """

    _abbr_ = 'bn'

    def forward(self, y: Tensor) -> Tensor:
        if y.is_cuda or not self.training:
            return super().forward(y)
        if not _said:
            _said.add(True)
            print_log('SyncBN: no CUDA here: all-reduce between several processes, BN in a single one', 'current')
        # torch's own forward refuses the CPU in any process group, also in one of a single process.
        return self._synced(y) if syncs(self.process_group) else super(nn.SyncBatchNorm, self).forward(y)

    def _synced(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            pooled = pool_batch(y, *batch_stats(y), group=self.process_group, sync=True)
            if self.track_running_stats:
                update_running_stats(self, pooled.mean, pooled.var, pooled.count, pooled.count)
        return PooledNorm.apply(y, self.weight, self.bias, None, None, None, None, pooled, self.eps, True,
                                self.process_group, None, None)
