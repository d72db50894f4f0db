"""What a model sees by: towers over pictures, and what brings their output to the language model."""
