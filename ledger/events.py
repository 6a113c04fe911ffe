"""Training events as columns: many `GradientApplied` entries written and read at once.

`codec.py` says what one such entry is; here the same bytes are made and taken apart by the thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from licet.ledger.chunks import Chunk
from licet.ledger.errors import FormatError, VerificationError
from licet.ledger.records import GradientApplied

Ints = NDArray[np.int64]
TAG = (GradientApplied.KIND, GradientApplied.VERSION)
COLUMNS = ("flags", "step", "epoch", "microbatch", "slot")
REFS = ("example", "attestation", "profile")
_LIMITS = {"flags": 2**16, "step": 2**32, "epoch": 2**16, "microbatch": 2**16, "slot": 2**16}


@dataclass(frozen=True, slots=True)
class Events:
    """n events: small numbers in `columns` [n, 5], references in `refs` [n, 3], norm codes in `codes` [n, blocks]."""

    columns: Ints
    refs: Ints
    codes: NDArray[np.uint16]

    @classmethod
    def of(
        cls,
        *,
        example: ArrayLike,
        attestation: ArrayLike,
        profile: ArrayLike,
        step: ArrayLike,
        slot: ArrayLike,
        norms_raw: ArrayLike,
        epoch: ArrayLike = 0,
        microbatch: ArrayLike = 0,
        flags: ArrayLike = 0,
    ) -> Events:
        """Events from plain arrays; single numbers stand for a whole column.

        `norms_raw` [n, blocks] are the norms before the weight. Where the profile's weight is zero it does not matter
        what stands there, NaN for instance; elsewhere NaN is recorded as a norm that overflowed.
        """
        from licet.ledger import kernels  # noqa: PLC0415

        values = np.asarray(norms_raw)
        if values.ndim != 2 or values.dtype.kind != "f":
            raise FormatError("Gradient norms come as a table of events × blocks, in floating point.")
        if (values < 0).any():
            raise FormatError("A gradient norm is never negative.")
        wide = np.ascontiguousarray(values, np.float64)
        codes = kernels.encode_norms(wide, wide.view(np.uint64))
        fields = {"flags": flags, "step": step, "epoch": epoch, "microbatch": microbatch, "slot": slot}
        columns = _table(fields, len(codes))
        refs = _table({"example": example, "attestation": attestation, "profile": profile}, len(codes))
        for i, name in enumerate(COLUMNS):
            if len(columns) and (columns[:, i].min() < 0 or columns[:, i].max() >= _LIMITS[name]):
                raise FormatError(f"An event's {name} lies outside 0 … {_LIMITS[name] - 1}.")
        if len(refs) and (refs.min() < 0 or refs.max() >= 2**40):
            raise FormatError("An event refers to an entry that cannot exist.")
        return cls(columns, refs, codes)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def step(self) -> Ints:
        return self.columns[:, 1]

    @property
    def example(self) -> Ints:
        return self.refs[:, 0]

    @property
    def attestation(self) -> Ints:
        return self.refs[:, 1]

    @property
    def profile(self) -> Ints:
        return self.refs[:, 2]


@dataclass(frozen=True, slots=True)
class ProfileTable:
    """The profiles that some events refer to: `rows` [n] says which row of `levels` [profiles, blocks] is whose."""

    rows: Ints
    levels: NDArray[np.int16]

    @classmethod
    def of(cls, profile_refs: Ints, levels_of: Callable[[int], NDArray[np.int16]]) -> ProfileTable:
        """Look each distinct profile up once."""
        first = int(profile_refs[0])
        if bool((profile_refs == first).all()):  # by far the most frequent case
            return cls(np.zeros(len(profile_refs), np.int64), levels_of(first)[None, :])
        distinct, rows = np.unique(profile_refs, return_inverse=True)
        levels = [levels_of(int(ref)) for ref in distinct]
        if len({len(row) for row in levels}) != 1:
            raise FormatError("Events of runs with different blocks cannot be read together.")
        return cls(rows.astype(np.int64), np.stack(levels))


def encode(events: Events, profiles: ProfileTable) -> tuple[bytes, Ints]:
    """The entries of some events, end to end, and their lengths."""
    from licet.ledger import kernels  # noqa: PLC0415

    data, offsets = kernels.encode_events(
        np.array(TAG, np.uint8), events.columns, events.refs, profiles.rows, profiles.levels, events.codes
    )
    return data.tobytes(), np.diff(offsets)


def find(chunk: Chunk) -> Ints:
    """Which entries of a chunk are events that this release can read."""
    data = np.frombuffer(chunk.data, np.uint8)
    starts = chunk.offsets[:-1]
    found: Ints = np.flatnonzero((data[starts] == TAG[0]) & (data[starts + 1] == TAG[1]))
    return found


def decode(chunk: Chunk, which: Ints, levels_of: Callable[[int], NDArray[np.int16]]) -> tuple[Events, ProfileTable]:
    """The events numbered `which` of a chunk, and the profiles they refer to."""
    from licet.ledger import kernels  # noqa: PLC0415

    lengths = np.diff(chunk.offsets)[which]
    short = np.flatnonzero(lengths < kernels.HEADER_BYTES)
    if len(short):
        index = chunk.first + int(which[short[0]])
        raise VerificationError(f"Entry {index} is too short for an event.", index=index)
    data = np.frombuffer(chunk.data, np.uint8)
    columns = np.empty((len(which), len(COLUMNS)), np.int64)
    refs = np.empty((len(which), len(REFS)), np.int64)
    kernels.decode_headers(data, chunk.offsets, which, columns, refs)
    profiles = ProfileTable.of(refs[:, 2], levels_of)
    codes = np.empty((len(which), profiles.levels.shape[1]), np.uint16)
    bad = kernels.decode_norms(data, chunk.offsets, which, profiles.rows, profiles.levels, codes)
    if bad >= 0:
        index = chunk.first + int(which[bad])
        raise VerificationError(f"Entry {index} does not have the norms that its profile asks for.", index=index)
    return Events(columns, refs, codes), profiles


def _table(fields: dict[str, ArrayLike], count: int) -> Ints:
    table = np.empty((count, len(fields)), np.int64)
    for i, (name, values) in enumerate(fields.items()):
        column = np.asarray(values)
        if column.dtype.kind not in "iu":
            raise FormatError(f"An event's {name} is a whole number.")
        if column.ndim and column.shape != (count,):
            raise FormatError(f"The column {name} has {column.size} values for {count} events.")
        table[:, i] = column
    return table
