"""The exact gate, technique `scale`: one file for each layer type, and the net that sees every use of a parameter."""

from licet.train.gate import conv, conv1d, embedding, expanded, linear, norm
from licet.train.gate.errors import (
    BatchError,
    BlockError,
    GateError,
    UngatedError,
    UnsupportedError,
    WeightsError,
)
from licet.train.gate.gate import Gate

RULE_FILES = (conv, conv1d, embedding, expanded, linear, norm)
"""Importing a rule's file enters it."""

__all__ = [
    "RULE_FILES",
    "BatchError",
    "BlockError",
    "Gate",
    "GateError",
    "UngatedError",
    "UnsupportedError",
    "WeightsError",
]
