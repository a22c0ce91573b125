"""What a run has around its loops: preparation, processes, signals, progress, the end."""
