"""Benchmarks, each run from the repository's root."""
