"""What a model takes on disk, while it is loaded, and in the jobs that make a checkpoint."""
