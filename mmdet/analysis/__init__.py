"""What is learned from finished and running trainings: grids of norms, logs, errors, reports."""
