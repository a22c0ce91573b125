"""Class and box of a region, behind hidden layers."""

from torch import Tensor, nn

from mmdet.models.layers import ConvModule
from mmdet.registry import MODELS

from .bbox_head import BBoxHead


@MODELS.register_module()
class ConvFCBBoxHead(BBoxHead):
    """Gives each region a class and a box: shared layers, then a branch for classes and one for boxes.

    The layers are 3x3 convolutions, then fully connected ones (Ren et al., Faster R-CNN, NeurIPS 2015, has two of
    these, shared). The heads below are this one with other defaults.

    Args:
        num_shared_convs, num_shared_fcs, num_cls_convs, num_cls_fcs, num_reg_convs, num_reg_fcs: numbers of layers,
            ``conv_out_channels`` and ``fc_out_channels`` wide. Both branches end in one more linear layer.
        conv_cfg, norm_cfg: of the convolutions.
        kwargs: of :class:`BBoxHead`; ``with_avg_pool`` averages before the first fully connected layer.

    Raises:
        ValueError: convolutions of a branch behind shared fully connected layers.
    """

    def __init__(
        self,
        num_shared_convs: int = 0,
        num_shared_fcs: int = 0,
        num_cls_convs: int = 0,
        num_cls_fcs: int = 0,
        num_reg_convs: int = 0,
        num_reg_fcs: int = 0,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
        **kwargs,
    ) -> None:
        if num_shared_fcs and (num_cls_convs or num_reg_convs):
            raise ValueError(
                f'{type(self).__name__}: num_cls_convs={num_cls_convs}, num_reg_convs={num_reg_convs} '
                f'cannot follow num_shared_fcs={num_shared_fcs} flat layers; use num_shared_fcs=0'
            )
        # Before the base class, which builds the layers by them.
        self.num_shared_convs = num_shared_convs
        self.num_shared_fcs = num_shared_fcs
        self.num_cls_convs = num_cls_convs
        self.num_cls_fcs = num_cls_fcs
        self.num_reg_convs = num_reg_convs
        self.num_reg_fcs = num_reg_fcs
        self.conv_out_channels = conv_out_channels
        self.fc_out_channels = fc_out_channels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        super().__init__(init_cfg=init_cfg, **kwargs)
        if init_cfg is None:
            branches = [dict(name='shared_fcs'), dict(name='cls_fcs'), dict(name='reg_fcs')]
            self.init_cfg += [dict(type='Xavier', distribution='uniform', override=branches)]

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.shared_convs, self.shared_fcs, self.shared_out_channels = self._add_conv_fc_branch(
            self.num_shared_convs, self.num_shared_fcs, self.in_channels, True
        )
        for name in ('cls', 'reg'):
            num_convs, num_fcs = getattr(self, f'num_{name}_convs'), getattr(self, f'num_{name}_fcs')
            convs, fcs, width = self._add_conv_fc_branch(num_convs, num_fcs, self.shared_out_channels)
            setattr(self, f'{name}_convs', convs)
            setattr(self, f'{name}_fcs', fcs)
            if not (self.num_shared_fcs or num_fcs or self.with_avg_pool):
                width *= self.roi_feat_area
            setattr(self, f'{name}_last_dim', width)
            self._add_predictor(name, width)

    def _add_conv_fc_branch(
        self, num_branch_convs: int, num_branch_fcs: int, in_channels: int, is_shared: bool = False
    ) -> tuple[nn.ModuleList, nn.ModuleList, int]:
        """The layers of a branch, convolutions and fully connected ones, and the width of the last."""
        convs, fcs, width = nn.ModuleList(), nn.ModuleList(), in_channels
        for _ in range(num_branch_convs):
            out = self.conv_out_channels
            convs.append(ConvModule(width, out, 3, padding=1, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg))
            width = out
        flat = self.with_avg_pool or not is_shared and self.num_shared_fcs
        for i in range(num_branch_fcs):
            fcs.append(nn.Linear(width if i or flat else width * self.roi_feat_area, self.fc_out_channels))
            width = self.fc_out_channels
        return convs, fcs, width

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Compute classes and boxes of regions (R, in_channels, S, S), see :meth:`BBoxHead.forward`."""

        def run(name: str, x: Tensor) -> Tensor:
            for conv in getattr(self, f'{name}_convs'):
                x = conv(x)
            for fc in getattr(self, f'{name}_fcs'):
                x = self.relu(fc(self._flat(x)))
            return x

        x = run('shared', x)
        scores, deltas = (self._flat(run(name, x)) for name in ('cls', 'reg'))
        return self.fc_cls(scores) if self.with_cls else None, self.fc_reg(deltas) if self.with_reg else None


@MODELS.register_module()
class Shared2FCBBoxHead(ConvFCBBoxHead):
    """Gives each region a class and a box from two shared fully connected layers (Ren et al., Faster R-CNN, 2015).

    Arguments are :class:`ConvFCBBoxHead`'s.

    Example:
        In a config, behind RoIAlign of 7x7 bins::

            bbox_head=dict(type='Shared2FCBBoxHead', in_channels=256, roi_feat_size=7, num_classes=80)
    """

    def __init__(self, fc_out_channels: int = 1024, **kwargs) -> None:
        super().__init__(num_shared_fcs=2, fc_out_channels=fc_out_channels, **kwargs)


@MODELS.register_module()
class Shared4Conv1FCBBoxHead(ConvFCBBoxHead):
    """Gives each region a class and a box from four 3x3 convolutions and one fully connected layer.

    The head comes from Wu and He, Group Normalization, 2018; its convolutions can have norms. Arguments are
    :class:`ConvFCBBoxHead`'s.

    Example:
        In a config::

            bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=dict(type='CBN'), num_classes=80)
    """

    def __init__(self, fc_out_channels: int = 1024, **kwargs) -> None:
        super().__init__(num_shared_convs=4, num_shared_fcs=1, fc_out_channels=fc_out_channels, **kwargs)
