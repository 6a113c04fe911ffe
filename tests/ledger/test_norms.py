"""Norm codes: small floating-point numbers whose sums are exact integers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from licet.ledger import norms

_CODES = range(norms.CODE_MAX + 1)


def _code(value: float) -> int:
    return int(norms.encode([value])[0])


def test_units_follow_the_formula():
    assert [norms.units(code) for code in (0, 1, 1023, 1024, 1025, 2047, 2048, 2049)] == [
        0,
        1,
        1023,
        1024,
        1025,
        2047,
        2048,
        2050,
    ]
    assert norms.units(norms.CODE_MAX).bit_length() == 73
    assert norms.units(norms.NOT_FINITE) == 0


def test_every_code_is_larger_than_the_one_before():
    values = [norms.units(code) for code in _CODES]
    assert all(a < b for a, b in itertools.pairwise(values))


def test_every_code_comes_back_from_its_norm():
    codes = np.array(_CODES, np.uint16)
    assert np.array_equal(norms.encode([norms.decode(code) for code in _CODES]), codes)
    assert math.isinf(norms.decode(norms.NOT_FINITE))
    assert _code(math.inf) == norms.NOT_FINITE


@given(st.floats(min_value=1e-9, max_value=8e9))
def test_three_decimal_digits_are_kept(value):
    assert math.isclose(norms.decode(_code(value)), value, rel_tol=2**-11)


@given(st.floats(min_value=0, max_value=8e9), st.floats(min_value=0, max_value=8e9))
def test_order_is_kept(a, b):
    low, high = sorted((a, b))
    assert _code(low) <= _code(high)


@given(st.floats(min_value=0, max_value=8e9))
def test_the_nearest_code_is_taken(value):
    code = _code(value)
    mistake = abs(norms.decode(code) - value)
    for other in {max(code - 1, 0), min(code + 1, norms.CODE_MAX)}:
        assert mistake <= abs(norms.decode(other) - value)


@pytest.mark.parametrize(
    ("value", "code"),
    [(0.0, 0), (-0.0, 0), (5e-324, 0), (1e-13, 0), (2.0**-40, 1), (1e12, norms.CODE_MAX), (1e308, norms.CODE_MAX)],
)
def test_the_ends_of_the_range(value, code):
    assert _code(value) == code


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32])
def test_any_array_will_do(kind):
    assert norms.encode(np.array([[0, 1], [2, 3]], kind)).tolist() == [
        [0, _code(1.0)],
        [_code(2.0), _code(3.0)],
    ]


@pytest.mark.parametrize("value", [-1.0, -1e-30, -math.inf])
def test_a_norm_below_zero_is_refused(value):
    with pytest.raises(ValueError, match="negative"):
        norms.encode([1.0, value])


def test_nan_is_never_a_number():
    assert _code(math.nan) == norms.NOT_FINITE


@given(st.integers(0, 2**90))
def test_magnitude_is_the_nearest_number(total):
    assert math.isclose(norms.magnitude(total), total / (norms.LEVELS * 2**norms.UNIT_BITS), rel_tol=1e-15)


def test_full_weight_gives_the_norm_itself():
    assert norms.magnitude(norms.LEVELS * norms.units(_code(0.5))) == 0.5
