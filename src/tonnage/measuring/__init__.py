"""The real code on the real device: the same workload with random weights and data, in a process of its own.

An edge like ``tracing``: torch and transformers are imported in the measured process only.
"""
