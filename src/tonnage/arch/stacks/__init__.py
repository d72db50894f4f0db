"""Modules and functions of training libraries that do not run transformers' own."""
