"""Benchmarks that run from a clean clone, with nothing installed."""
