"""Renderers: each turns a result into one format and asks nothing else."""
