"""A training run: its file, its parts, its loop, its record, its seals."""
