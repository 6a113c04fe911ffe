"""The gate inside the backward pass, the trainer, and seals."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from licet.train.gate import Gate

__all__ = ["Gate"]


def __getattr__(name: str) -> object:
    """The gate needs torch, and reading a file of rows does not: it is loaded when it is asked for."""
    if name == "Gate":
        from licet.train.gate import Gate  # noqa: PLC0415

        return Gate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
