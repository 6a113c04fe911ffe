"""Seals: what a checkpoint is said to be, written, read and verified."""
