"""What the demo shows and claims: told on a terminal, or kept for a program; each claim is held or it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from licet.ledger import terminal
from licet.ledger.errors import LicetError


@dataclass(slots=True)
class Claims:
    """What was shown, and whether it held."""

    quiet: bool
    held: dict[str, bool] = field(default_factory=dict)

    def tell(self, text: str = "") -> None:
        if not self.quiet:
            terminal.show(text)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: frozenset[int]) -> None:
        if not self.quiet:
            terminal.show_table((f"   {columns[0]}", *columns[1:]), ((f"   {r[0]}", *r[1:]) for r in rows), right=right)

    def claim(self, what: str, holds: bool) -> None:
        self.held[what] = holds
        self.tell(f"  {'✓' if holds else '✗'} {what}")


def refuses(call: Callable[[], object], expected: type[LicetError]) -> bool:
    """Whether a call raises the error that it should."""
    try:
        call()
    except expected:
        return True
    return False
