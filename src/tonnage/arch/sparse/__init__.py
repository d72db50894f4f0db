"""Attention that sees some of the tokens: chunks, buckets, windows and blocks; and what stands around it."""
