"""Set-up of a run: environment, checks before anything is written."""
