"""Benchmarks: each prints JSON lines and a table, and measures its peers in the same run."""
