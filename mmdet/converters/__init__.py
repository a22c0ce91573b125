"""Other formats to ours: annotations, checkpoints, and the synthetic shapes."""
