# The norms that tools/compare_norms.py knows by name with these configs
norm_cfgs = {
    'BN': dict(type='BN'),
    # 8 channels a group in neck and heads, as 32 groups of 256 are; 16 groups are worse: docs/results.md
    'GN': dict(type='GN', num_groups=8),
    # Window of 4, plain BN until the learning rate drops: the published setting
    'CBN': dict(type='CBN', buffer_num=3, burnin=3, by_epoch=True),
    'naive': dict(type='CBN', buffer_num=3, burnin=3, by_epoch=True, compensation='none'),
    # The gradient reaches the whole window; sliding over 4 batches, exponential over 16
    'CBN-window': dict(type='CBN', buffer_num=3, compensation='secant', backprop='window', running_stats='pooled'),
    'CBN+': dict(type='CBN+', buffer_num=15),
    'CBN+GN': dict(type='CBN+GN', num_groups=8, buffer_num=15),
    # Rivals: the clipping opens over the same parts of the training as in its paper, were it 2000 iterations long
    'BRN': dict(type='BRN', burnin=80, r_ramp=540, d_ramp=310),
    'FRN': dict(type='timm.layers.FilterResponseNormTlu2d'),
    'EvoNorm': dict(type='timm.layers.EvoNorm2dS0', groups=8),
}
