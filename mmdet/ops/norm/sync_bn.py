"""SyncBN that also works where there is no CUDA."""
import torch
import torch.distributed as dist
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

_said: set = set()


class SyncBN(nn.SyncBatchNorm):
    """torch's SyncBatchNorm; on the CPU, where torch has none, the same statistics by differentiable all-reduce.

    In a process alone it is BN. Shape: (N, C, *) in and out; a rank may have no position at all.
    """

    _abbr_ = 'bn'

    def forward(self, y: Tensor) -> Tensor:
        if y.is_cuda or not self.training:
            return super().forward(y)
        if not _said:
            _said.add(True)
            print_log('SyncBN: no CUDA here: all-reduce between several processes, BN in a single one', 'current')
        in_group = dist.is_available() and dist.is_initialized() and dist.get_world_size(self.process_group) > 1
        # torch's own forward refuses the CPU in any process group, also in one of a single process.
        return self._synced(y) if in_group else super(nn.SyncBatchNorm, self).forward(y)

    def _synced(self, y: Tensor) -> Tensor:
        dims = [d for d in range(y.dim()) if d != 1]
        shape = (1, -1) + (1, ) * (y.dim() - 2)
        group = self.process_group or dist.group.WORLD
        count = y.new_tensor([y.numel() / y.shape[1]], dtype=torch.float64)
        dist.all_reduce(count, group=group)
        count = count.item()
        # Two reductions, mean first, so that the variance does not cancel.
        mean = all_reduce(y.sum(dims), group=group) / max(count, 1)
        centred = y - mean.view(shape)
        var = all_reduce(centred.square().sum(dims), group=group) / max(count, 1)
        if self.track_running_stats and count:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                rate = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, rate)
                self.running_var.lerp_(var * (count / max(count - 1, 1)), rate)
        z = centred * torch.rsqrt(var + self.eps).view(shape)
        return z * self.weight.view(shape) + self.bias.view(shape) if self.affine else z
