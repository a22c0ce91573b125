"""Operators that the models are built from."""
