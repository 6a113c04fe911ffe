"""What the gate refuses, each with the module or parameter it is about."""

from __future__ import annotations

from licet.ledger.errors import ConfigError
from licet.train.blocks import BlockError

__all__ = [
    "BatchError",
    "BlockError",
    "GateError",
    "UngatedError",
    "UnsupportedError",
    "WeightsError",
]


class GateError(ConfigError):
    """The gate cannot give every example its exact share here."""


class UnsupportedError(GateError):
    """A trainable parameter is used in a way for which there is no rule."""


class BatchError(GateError):
    """What passes through a layer does not carry the examples where the gate was told they are."""


class WeightsError(GateError):
    """Weights or example ids that cannot be used."""


class UngatedError(GateError):
    """A gradient that did not come through the gate."""
