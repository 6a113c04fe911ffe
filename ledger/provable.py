"""What any log can prove whose finished tiles can be had, one by one: inclusion, consistency, earlier roots."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from licet.ledger import tree
from licet.ledger.errors import NotFoundError
from licet.ledger.tree import TILE, TILE_BITS, Hashes


class ProvableLog(ABC):
    """The tree side of a log: its database (`view.py`) and its tiles (`tileview.py`) differ in the tiles' origin."""

    origin: str

    @property
    @abstractmethod
    def size(self) -> int: ...

    @abstractmethod
    def _tile(self, level: int, tile: int) -> Hashes:
        """All finished nodes of a tile."""

    def hashes(self, level: int, start: int, count: int) -> Hashes:
        """Finished nodes of a tile level."""
        if not count:
            return np.empty((0, 32), np.uint8)
        if start < 0 or start + count > self.size >> TILE_BITS * level:
            raise NotFoundError(f"The tree of {self.size} entries has no nodes up to {start + count} at level {level}.")
        rows = []
        while count:
            tile, at = divmod(start, TILE)
            part = min(count, TILE - at)
            rows.append(self._tile(level, tile)[at : at + part])
            start, count = start + part, count - part
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def root_at(self, size: int) -> bytes:
        """The root that the log had at an earlier size."""
        return tree.root_at(self._known(size), self)

    def prove_inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        return tree.prove_inclusion(index, self._known(size), self)

    def prove_consistency(self, size1: int, size2: int | None = None) -> list[bytes]:
        return tree.prove_consistency(size1, self._known(size2), self)

    def _known(self, size: int | None) -> int:
        if size is not None and size > self.size:
            raise NotFoundError(f"The log {self.origin} has {self.size} entries here, not {size}.")
        return self.size if size is None else size
