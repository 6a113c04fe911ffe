"""Which key signs a log when: the first, then each that its forerunner announced in the log itself."""

from __future__ import annotations

import contextlib
from typing import Self

import numpy as np

from licet.ledger.chunks import Chunk
from licet.ledger.codec import decode
from licet.ledger.errors import FormatError, SignatureError
from licet.ledger.keys import verify_rotation
from licet.ledger.note import VerifierKey
from licet.ledger.records import KeyRotated


class Succession:
    """The keys of one log as far as its entries were read, beginning with one that is trusted."""

    def __init__(self, origin: str, trusted: VerifierKey) -> None:
        self.origin = origin
        self._keys: list[tuple[int, VerifierKey]] = [(0, trusted)]
        """From which entry on each key signs."""

    def copy(self) -> Self:
        copied = type(self)(self.origin, self._keys[0][1])
        copied._keys = list(self._keys)
        return copied

    @property
    def keys(self) -> list[VerifierKey]:
        return [key for _, key in self._keys]

    def at(self, size: int) -> list[VerifierKey]:
        """The keys that may sign a checkpoint of this size: the current one, and just after it came its forerunner."""
        known = [(index, key) for index, key in self._keys if index < max(size, 1)]
        return [key for _, key in known[-2:]] if size == known[-1][0] + 1 else [known[-1][1]]

    def read(self, chunk: Chunk) -> bool:
        """Follow the rotations among these entries; whether there was one.

        A rotation is followed only if the current key agreed to it, so nothing is lost by reading entries that are
        not verified, nor by passing over one that does not hold.
        """
        grown = False
        data = np.frombuffer(chunk.data, np.uint8)
        starts = chunk.offsets[:-1]
        long_enough = np.diff(chunk.offsets) >= 2
        candidates = np.flatnonzero(long_enough)[data[starts[long_enough]] == KeyRotated.KIND]
        for i in candidates.tolist():
            with contextlib.suppress(FormatError, SignatureError):
                record = decode(chunk.entry(chunk.first + i))
                if isinstance(record, KeyRotated):
                    self.rotate(chunk.first + i, record)
                    grown = True
        return grown

    def rotate(self, index: int, rotation: KeyRotated) -> None:
        """Follow the rotation in one entry; raise unless the key that signs now agreed to it."""
        old, new = VerifierKey.parse(rotation.old_key), VerifierKey.parse(rotation.new_key)
        if old != self._keys[-1][1]:
            raise SignatureError(f"Entry {index} rotates a key that does not sign this log.")
        verify_rotation(self.origin, old, new, by_old=rotation.old_signature, by_new=rotation.new_signature)
        self._keys.append((index, new))
