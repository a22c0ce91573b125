"""Norms compared: a grid of trainings that can be interrupted, its numbers, and the page that shows them."""
