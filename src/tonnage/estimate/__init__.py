"""From a model and a workload to instants, a peak and a verdict."""
