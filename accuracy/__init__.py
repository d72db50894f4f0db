"""Predictions beside figures that others measured, by group: ``python -m accuracy`` from the repository root."""
