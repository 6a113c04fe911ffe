"""Gradient norms as 16-bit codes, and their exact sums.

A code is a small floating-point number without a sign: 6 bits of exponent, 10 of mantissa. It counts units of 2⁻⁴⁰,
so norms from 10⁻¹² to 8·10⁹ keep three decimal digits, and each code stands for one whole number of units:

    code < 1024     code                               units
    otherwise       (1024 + code % 1024) << (code // 1024 - 1)   units

Sums of level × norm are therefore integers (in units of 2⁻⁴⁰ / 15) and come out the same however they are grouped.
They are kept in two limbs, `hi · 2⁴⁰ + lo`, because the largest code alone has 73 bits.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

LIMB_BITS = 40
LIMB_MASK = (1 << LIMB_BITS) - 1
UNIT_BITS = 40
LEVELS = 15
"""A profile's level stands for the weight level / 15."""
LEVEL_MAX = 255
NOT_FINITE = 0xFFFF
"""The code of a norm that overflowed: recorded, and counted as nothing."""
CODE_MAX = 0xFFFE

_MANTISSA = 1 << 10


def encode(norms: ArrayLike) -> NDArray[np.uint16]:
    """The codes of some norms, rounded to nearest; what is too large becomes the largest, infinity `NOT_FINITE`."""
    values = np.asarray(norms, dtype=np.float64)
    if np.any(values < 0):
        raise ValueError("a norm is never negative")
    with np.errstate(over="ignore", invalid="ignore"):
        mantissa, exponent = np.frexp(np.ldexp(values, UNIT_BITS))  # units = mantissa · 2^exponent, 0.5 ≤ mantissa < 1
        shift = np.maximum(exponent - 11, 0)
        code = np.rint(np.ldexp(mantissa, exponent - shift)) + shift * _MANTISSA  # a carry runs into the exponent
        code = np.where(values == 0, 0, np.minimum(code, CODE_MAX))
    return np.where(np.isfinite(values), code, NOT_FINITE).astype(np.uint16)


def units(code: int) -> int:
    """The whole number of units that a code stands for."""
    if code == NOT_FINITE:
        return 0
    exponent, mantissa = divmod(code, _MANTISSA)
    return mantissa if exponent == 0 else (_MANTISSA + mantissa) << (exponent - 1)


def decode(code: int) -> float:
    """The norm that a code stands for; infinity for one that overflowed."""
    return math.inf if code == NOT_FINITE else math.ldexp(units(code), -UNIT_BITS)


def magnitude(total: int) -> float:
    """The recorded Σ |weight| · norm of an exact sum."""
    return float(Fraction(total, LEVELS << UNIT_BITS))
