"""Mixers whose state has one size whatever the length: scans, delta rules, convolutions; in torch and by kernels."""
