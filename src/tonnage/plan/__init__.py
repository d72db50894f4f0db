"""Search and inverse questions: what would fit."""
