"""The exact gate: one file for each layer type, the net that sees every use of a parameter, and two more techniques."""

from licet.ledger.records import Technique
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
    "Technique",
    "UngatedError",
    "UnsupportedError",
    "WeightsError",
]
