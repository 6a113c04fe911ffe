"""The commands about sources, attestations and policies."""
