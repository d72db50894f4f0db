"""Which rank holds what. Nothing else in the project divides by a degree of parallelism."""
