"""The compiled loops: SHA-256 over many messages at once, event rows, exposure sums.

Each does what a few lines of plain Python do elsewhere, for thousands of rows; the tests hold them against those
lines. Importing this module costs half a second (numba), so callers import it when they have a batch to work on.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from licet.ledger.norms import CODE_MAX, LIMB_BITS, LIMB_MASK, NOT_FINITE, UNIT_BITS

HEADER_BYTES = 29
"""Bytes of a `GradientApplied` entry before its norms."""

_LANES = 16
_U32 = nb.uint32
_AT = nb.uintp
_SPREAD = 0x9E3779B1
_FRACTION = (1 << 52) - 1


def _fractional_bits(root: float, primes: int) -> list[int]:
    """The first 32 fractional bits of the roots of the first primes: where SHA-256 takes its constants from."""
    found: list[int] = []
    candidate = 2
    while len(found) < primes:
        if all(candidate % p for p in range(2, candidate)):
            found.append(int((candidate**root % 1) * 2**32))
        candidate += 1
    return found


_ROUND = np.array(_fractional_bits(1 / 3, 64), dtype=np.uint32)
_START = np.array(_fractional_bits(1 / 2, 8), dtype=np.uint32)
_jit = nb.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")


@nb.njit(inline="always")
def _rotr(x: Any, n: int) -> Any:
    return _U32((_U32(x) >> _U32(n)) | (_U32(x) << _U32(32 - n)))


@_jit
def _compress(state: Any, work: Any) -> None:
    """One SHA-256 block in each lane.

    `work` holds, lane beside lane, 64 message words and the history of the registers a and e: keeping histories
    instead of rotating eight registers leaves two stores a round, which is what lets the lane loops vectorise.
    """
    a0 = 64 * _LANES
    e0 = a0 + 68 * _LANES
    for t in range(16, 64):
        w = t * _LANES
        for lane in range(_LANES):
            x = work[_AT(w - 15 * _LANES + lane)]
            y = work[_AT(w - 2 * _LANES + lane)]
            s0 = _rotr(x, 7) ^ _rotr(x, 18) ^ _U32(x >> _U32(3))
            s1 = _rotr(y, 17) ^ _rotr(y, 19) ^ _U32(y >> _U32(10))
            work[_AT(w + lane)] = _U32(work[_AT(w - 16 * _LANES + lane)] + s0 + work[_AT(w - 7 * _LANES + lane)] + s1)
    for i in range(4):
        for lane in range(_LANES):
            work[_AT(a0 + (3 - i) * _LANES + lane)] = state[_AT(i * _LANES + lane)]
            work[_AT(e0 + (3 - i) * _LANES + lane)] = state[_AT((4 + i) * _LANES + lane)]
    for t in range(64):
        pa = a0 + (t + 3) * _LANES
        pe = e0 + (t + 3) * _LANES
        pw = t * _LANES
        k = _ROUND[t]
        for lane in range(_LANES):
            a = work[_AT(pa + lane)]
            b = work[_AT(pa - _LANES + lane)]
            c = work[_AT(pa - 2 * _LANES + lane)]
            d = work[_AT(pa - 3 * _LANES + lane)]
            e = work[_AT(pe + lane)]
            f = work[_AT(pe - _LANES + lane)]
            g = work[_AT(pe - 2 * _LANES + lane)]
            h = work[_AT(pe - 3 * _LANES + lane)]
            choose = _U32((e & f) ^ (_U32(~e) & g))
            majority = _U32((a & b) ^ (a & c) ^ (b & c))
            t1 = _U32(h + (_rotr(e, 6) ^ _rotr(e, 11) ^ _rotr(e, 25)) + choose + k + work[_AT(pw + lane)])
            t2 = _U32((_rotr(a, 2) ^ _rotr(a, 13) ^ _rotr(a, 22)) + majority)
            work[_AT(pe + _LANES + lane)] = _U32(d + t1)
            work[_AT(pa + _LANES + lane)] = _U32(t1 + t2)
    for i in range(4):
        for lane in range(_LANES):
            s = _AT(i * _LANES + lane)
            state[s] = _U32(state[s] + work[_AT(a0 + (67 - i) * _LANES + lane)])
            s = _AT((4 + i) * _LANES + lane)
            state[s] = _U32(state[s] + work[_AT(e0 + (67 - i) * _LANES + lane)])


@_jit
def _stage(data: Any, start: int, length: int, prefix: int, staged: Any, at: int) -> int:
    """Write the padded message prefix ‖ data[start : start + length] to `staged`; how many blocks it has."""
    blocks = (length + 1 + 8) // 64 + 1
    staged[_AT(at)] = prefix
    for i in range(length):
        staged[_AT(at + 1 + i)] = data[_AT(start + i)]
    for i in range(length + 1, blocks * 64 - 8):
        staged[_AT(at + i)] = 0
    staged[_AT(at + length + 1)] = 0x80
    for i in range(8):
        staged[_AT(at + blocks * 64 - 1 - i)] = ((length + 1) * 8 >> (8 * i)) & 0xFF
    return blocks


@_jit
def _load_blocks(staged: Any, stride: int, block: int, work: Any) -> None:
    """Spread one block of every lane over the lanes' message words, big endian."""
    for lane in range(_LANES):
        at = (lane * stride + block * 64) >> 2
        for t in range(16):
            w = staged[_AT(at + t)]
            work[_AT(t * _LANES + lane)] = _U32(
                (w << _U32(24)) | ((w & _U32(0xFF00)) << _U32(8)) | ((w >> _U32(8)) & _U32(0xFF00)) | (w >> _U32(24))
            )


@_jit
def _hash_messages(data: Any, offsets: Any, prefix: int, out: Any) -> None:
    count = offsets.shape[0] - 1
    longest = 0
    for i in range(count):
        longest = max(longest, offsets[i + 1] - offsets[i])
    stride = ((longest + 1 + 8) // 64 + 1) * 64
    staged = np.zeros(_LANES * stride, np.uint8)
    words = staged.view(np.uint32)
    state = np.empty(8 * _LANES, np.uint32)
    work = np.zeros(200 * _LANES, np.uint32)
    blocks = np.zeros(_LANES, np.int64)
    for first in range(0, count, _LANES):
        lanes = min(_LANES, count - first)
        most = 0
        for lane in range(lanes):
            start = offsets[first + lane]
            blocks[lane] = _stage(data, start, offsets[first + lane + 1] - start, prefix, staged, lane * stride)
            most = max(most, blocks[lane])
        for i in range(8):
            state[i * _LANES : (i + 1) * _LANES] = _START[i]
        for block in range(most):
            _load_blocks(words, stride, block, work)
            _compress(state, work)
            for lane in range(lanes):
                if block == blocks[lane] - 1:
                    for i in range(8):
                        word = state[i * _LANES + lane]
                        out[first + lane, 4 * i] = word >> _U32(24)
                        out[first + lane, 4 * i + 1] = word >> _U32(16)
                        out[first + lane, 4 * i + 2] = word >> _U32(8)
                        out[first + lane, 4 * i + 3] = word


@_jit
def leaf_hashes(data: Any, offsets: Any) -> Any:
    """RFC 6962 leaf hashes [n, 32] of the entries data[offsets[i] : offsets[i + 1]]."""
    out = np.empty((offsets.shape[0] - 1, 32), np.uint8)
    _hash_messages(data, offsets, 0, out)
    return out


@_jit
def _rise(nodes: Any, count: int) -> int:
    """Put the parents of the first `count` nodes in their place; how many there are. An odd last one just rises."""
    pairs = count // 2
    parents = np.empty((pairs, 32), np.uint8)
    _hash_messages(nodes.reshape(-1), np.arange(0, (pairs + 1) * 64, 64), 1, parents)
    nodes[:pairs] = parents
    if count % 2:
        nodes[pairs] = nodes[count - 1]
    return pairs + count % 2


@_jit
def tree_root(hashes: Any) -> Any:
    """The RFC 6962 root [32] over one or more node hashes [n, 32], of which only the last may be incomplete."""
    nodes = hashes.copy()
    count = nodes.shape[0]
    while count > 1:
        count = _rise(nodes, count)
    return nodes[0].copy()


@_jit
def siblings(hashes: Any, at: int) -> Any:
    """The nodes beside the way from hashes[at] to the root over all of them, from below."""
    nodes = hashes.copy()
    count = nodes.shape[0]
    path = np.empty((64, 32), np.uint8)
    found = 0
    while count > 1:
        if at ^ 1 < count:
            path[found] = nodes[at ^ 1]
            found += 1
        count = _rise(nodes, count)
        at >>= 1
    return path[:found].copy()


@_jit
def encode_norms(values: Any, bits: Any) -> Any:
    """The codes of norms [n, blocks], as `norms.encode`.

    `bits` are the doubles of `values`, seen as integers.
    """
    codes = np.empty(values.shape, np.uint16)
    for i in range(values.shape[0]):
        for b in range(values.shape[1]):
            code: Any = np.int64(0)
            exponent = np.int64(bits[i, b] >> 52) - 1023
            mantissa = np.int64(bits[i, b] & _FRACTION)
            shift = exponent + UNIT_BITS - 10
            if exponent == 1024:
                code = NOT_FINITE
            elif shift >= 0:
                # Ten bits of the fraction stay, rounded half to even; a carry runs into the exponent, as it should.
                half = (mantissa >> 42) & 1
                code = min(((shift + 1) << 10) + ((mantissa + (1 << 41) - 1 + half) >> 42), CODE_MAX)
            elif shift > -12:
                code = np.int64(np.rint(values[i, b] * 2.0**UNIT_BITS))
            codes[i, b] = code
    return codes


@_jit
def encode_events(tag: Any, columns: Any, refs: Any, rows: Any, levels: Any, codes: Any) -> Any:
    """`GradientApplied` entries of n events: their bytes and their n + 1 offsets.

    `columns` [n, 5] holds flags, step, epoch, microbatch, slot; `refs` [n, 3] example, attestation, profile;
    `rows` [n] the row of `levels` [profiles, blocks] of each event; `codes` [n, blocks] its norms.
    """
    count, blocks = codes.shape
    kept = np.zeros(levels.shape[0], np.int64)
    for p in range(levels.shape[0]):
        for b in range(blocks):
            if levels[p, b] != 0:
                kept[p] += 1
    offsets = np.empty(count + 1, np.int64)
    offsets[0] = 0
    for i in range(count):
        offsets[i + 1] = offsets[i] + HEADER_BYTES + 2 * kept[rows[i]]
    data = np.empty(offsets[count], np.uint8)
    widths = (2, 4, 2, 2, 2)
    for i in range(count):
        at = offsets[i]
        data[at] = tag[0]
        data[at + 1] = tag[1]
        at += 2
        for f in range(5):
            value = columns[i, f]
            for _ in range(widths[f]):
                data[at] = value & 0xFF
                value >>= 8
                at += 1
        for f in range(3):
            value = refs[i, f]
            for _ in range(5):
                data[at] = value & 0xFF
                value >>= 8
                at += 1
        for b in range(blocks):
            if levels[rows[i], b] != 0:
                data[at] = codes[i, b] & 0xFF
                data[at + 1] = codes[i, b] >> 8
                at += 2
    return data, offsets


@_jit
def decode_headers(data: Any, offsets: Any, which: Any, columns: Any, refs: Any) -> None:
    """Fill `columns` [m, 5] and `refs` [m, 3] from the event entries numbered `which` [m]."""
    widths = (2, 4, 2, 2, 2)
    for j in range(which.shape[0]):
        at = offsets[which[j]] + 2
        for f in range(5):
            value = np.int64(0)
            for k in range(widths[f]):
                value |= np.int64(data[at + k]) << (8 * k)
            columns[j, f] = value
            at += widths[f]
        for f in range(3):
            value = np.int64(0)
            for k in range(5):
                value |= np.int64(data[at + k]) << (8 * k)
            refs[j, f] = value
            at += 5


@_jit
def decode_norms(data: Any, offsets: Any, which: Any, rows: Any, levels: Any, codes: Any) -> int:
    """Fill `codes` [m, blocks]; the number of the first event whose norms do not fit its profile, or -1."""
    blocks = levels.shape[1]
    for j in range(which.shape[0]):
        at = offsets[which[j]] + HEADER_BYTES
        end = offsets[which[j] + 1]
        for b in range(blocks):
            if levels[rows[j], b] == 0:
                codes[j, b] = 0
            else:
                if at + 2 > end:
                    return j
                codes[j, b] = np.uint16(data[at]) | (np.uint16(data[at + 1]) << 8)
                at += 2
        if at != end:
            return j
    return -1


@_jit
def fold(cells: Any, steps: Any, order: Any, rows: Any, step: Any, profiles: Any, levels: Any, codes: Any) -> None:
    """Add events to exposure cells, in the given order.

    `cells` [rows, blocks, 3] holds hi, lo, count; `steps` [rows, blocks, 2] first and last step, first = -1 if none.
    """
    blocks = codes.shape[1]
    for i in order:
        r = rows[i]
        for b in range(blocks):
            level = abs(np.int64(levels[profiles[i], b]))
            if level == 0:
                continue
            code = np.int64(codes[i, b])
            if code <= CODE_MAX:
                exponent = code >> 10
                mantissa = code & 1023
                if exponent > 0:
                    mantissa += 1024
                    exponent -= 1
                product = mantissa * level
                if exponent < LIMB_BITS:
                    product <<= exponent
                    hi = product >> LIMB_BITS
                    lo = product & LIMB_MASK
                else:
                    hi = product << (exponent - LIMB_BITS)
                    lo = np.int64(0)
                lo += cells[r, b, 1]
                cells[r, b, 0] += hi + (lo >> LIMB_BITS)
                cells[r, b, 1] = lo & LIMB_MASK
            cells[r, b, 2] += 1
            if steps[r, b, 0] < 0 or step[i] < steps[r, b, 0]:
                steps[r, b, 0] = step[i]
            steps[r, b, 1] = max(steps[r, b, 1], step[i])


@_jit
def merge(cells: Any, steps: Any, rows: Any, more: Any, more_steps: Any) -> None:
    """Add the cells of another index, whose i-th row is our `rows[i]`."""
    for i in range(rows.shape[0]):
        r = rows[i]
        for b in range(more.shape[1]):
            if more[i, b, 2] == 0:
                continue
            lo = cells[r, b, 1] + more[i, b, 1]
            cells[r, b, 0] += more[i, b, 0] + (lo >> LIMB_BITS)
            cells[r, b, 1] = lo & LIMB_MASK
            cells[r, b, 2] += more[i, b, 2]
            if steps[r, b, 0] < 0 or more_steps[i, b, 0] < steps[r, b, 0]:
                steps[r, b, 0] = more_steps[i, b, 0]
            steps[r, b, 1] = max(steps[r, b, 1], more_steps[i, b, 1])


@_jit
def add_selected(columns: Any, selected: Any, groups: Any, hi: Any, lo: Any) -> None:
    """Sum the selected blocks of each row into its group's limbs; `columns` [2, blocks, rows] holds hi and lo.

    Carries are left in `lo`, which has room for 2²³ of them.
    """
    for k in range(selected.shape[0]):
        b = selected[k]
        for r in range(groups.shape[0]):
            hi[groups[r]] += columns[0, b, r]
            lo[groups[r]] += columns[1, b, r]


@_jit
def find_rows(table: Any, refs: Any) -> Any:
    """The row of each reference in an open-addressed table [slots, 2] of (reference, row); -1 where there is none."""
    rows = np.empty(refs.shape[0], np.int64)
    mask = table.shape[0] - 1
    for i in range(refs.shape[0]):
        slot = (refs[i] * _SPREAD) & mask
        while table[slot, 0] != refs[i] and table[slot, 0] >= 0:
            slot = (slot + 1) & mask
        rows[i] = table[slot, 1]
    return rows


@_jit
def insert_rows(table: Any, refs: Any, first: int) -> None:
    """Give new references the rows from `first` on. The table must have room."""
    mask = table.shape[0] - 1
    for i in range(refs.shape[0]):
        slot = (refs[i] * _SPREAD) & mask
        while table[slot, 0] >= 0:
            slot = (slot + 1) & mask
        table[slot, 0] = refs[i]
        table[slot, 1] = first + i
