"""Bands on models: the same policy on small and large ones, covers of every kind, and the algebra of falloff."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from licet.ledger.norms import LEVELS
from licet.policies.bands import BLOCKS_MAX, Architecture, BandError, Layout, ModelBlock, quantised, resolve, spread
from licet.policies.policy import Policy
from licet.policies.schema import Falloff
from tests.policies.signed import policy_text

SHARES = """[[band]]
name = "surface"
share = [0.85, 1.0]

[[band]]
name = "behavioral"
share = [0.2, 0.85]

[[band]]
name = "foundational"
share = [0.0, 0.2]
"""
SURFACE, BEHAVIORAL, FOUNDATIONAL = range(3)


def policy(*covers: str, top: str = "", tail: str = "") -> Policy:
    """The test policy; with other covers for its three bands, from the top down."""
    text = policy_text(tail=tail)
    assert SHARES in text
    if covers:
        names = ("surface", "behavioral", "foundational")
        bands = "".join(f'[[band]]\nname = "{n}"\n{c}\n\n' for n, c in zip(names, covers, strict=True))
        text = text.replace(SHARES, bands)
    return Policy.parse(text.replace('version = "1"\n', f'version = "1"\n{top}\n', 1))


def model(layers: int, **changes: int | None) -> Architecture:
    return Architecture.uniform(layers, **{"embedding": 1000, "layer": 1000, "head": 1000, **changes})


def named(layout: Layout) -> dict[str, tuple[str, ...]]:
    return {block.name: layout.bands_of(i) for i, block in enumerate(layout.blocks)}


def counted(layout: Layout) -> dict[str, int]:
    held = [band for i in range(len(layout.blocks)) for band in layout.bands_of(i)]
    return {band: held.count(band) for band in dict.fromkeys(held)}


# ---- shares of the depth -----------------------------------------------------------------------------------------


def test_six_layers():
    assert named(resolve(policy(), model(6))) == {
        "embedding": ("foundational",),
        "layer.0": ("foundational",),
        "layer.1": ("behavioral",),
        "layer.2": ("behavioral",),
        "layer.3": ("behavioral",),
        "layer.4": ("behavioral",),
        "layer.5": ("surface",),
        "head": ("surface",),
    }


def test_ninety_six_layers():
    layout = resolve(policy(), model(96))
    assert counted(layout) == {"foundational": 1 + 19, "behavioral": 63, "surface": 14 + 1}
    assert named(layout)["layer.18"] == ("foundational",)
    assert named(layout)["layer.19"] == ("behavioral",)
    assert named(layout)["layer.81"] == ("behavioral",)
    assert named(layout)["layer.82"] == ("surface",)


def test_grouped_blocks_lie_where_their_middle_lies():
    layout = resolve(policy(), model(96, layers_per_block=8))
    assert len(layout.blocks) == 14
    assert named(layout)["layers.16-23"] == ("behavioral",)  # its middle is at 20 of 96, which is above 0.2
    assert named(layout)["layers.80-87"] == ("surface",)  # and of this one at 84, above 0.85 less a bit
    assert counted(layout)["foundational"] == 3


def test_a_last_group_may_be_smaller():
    blocks = model(10, layers_per_block=4).blocks
    assert [block.layers for block in blocks] == [None, (0, 3), (4, 7), (8, 9), None]
    assert [block.parameters for block in blocks] == [1000, 4000, 4000, 2000, 1000]


@given(st.integers(1, 200), st.integers(1, 8), st.booleans(), st.sampled_from(["layers", "parameters"]))
def test_every_block_of_every_model_lies_in_a_band(layers, group, tied, measure):
    layout = resolve(
        policy(top=f'measure = "{measure}"'), model(layers, layers_per_block=group, head=None if tied else 1000)
    )
    depths = [max(own) for own in layout.own]
    assert all(len(own) == 1 or block.is_head for own, block in zip(layout.own, layout.blocks, strict=True))
    assert depths[1:] == sorted(depths[1:], reverse=True)  # from the bottom up, never back down
    assert layout.as_records()[0].parameters == 1000


def test_parameters_measure_depth_by_weight():
    """With a quarter of the parameters in the embedding, fewer layers are foundational."""
    by_layers = resolve(policy(), model(20, embedding=8000))
    by_parameters = resolve(policy(top='measure = "parameters"'), model(20, embedding=8000))
    assert counted(by_layers)["foundational"] == 5
    assert counted(by_parameters)["foundational"] == 1


def test_parameters_need_some():
    with pytest.raises(BandError):
        resolve(policy(top='measure = "parameters"'), model(4, embedding=0, layer=0, head=0))


# ---- tied weights --------------------------------------------------------------------------------------------------


def test_tied_weights_lie_at_both_ends():
    layout = resolve(policy(), model(6, head=None))
    assert layout.own[0] == (SURFACE, FOUNDATIONAL)
    assert layout.names[layout.surface] == "surface"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_tied_weights_take_the_lower_weight(surface, behavioral, foundational):
    layout = resolve(policy(), model(6, head=None))
    found = spread((surface, behavioral, foundational), layout, Falloff(shape="none"))
    assert found.weights[0] == min(surface, foundational)


# ---- layers and blocks by name -------------------------------------------------------------------------------------


def test_layers_by_number():
    layout = resolve(policy("layers = [[-1, -1]]", "layers = [[1, 4]]", "layers = [[0, 0]]"), model(6))
    assert named(layout) == named(resolve(policy(), model(6)))


def test_layers_in_two_places():
    layout = resolve(policy("layers = [[5, 5]]", "layers = [[2, 2], [4, 4]]", "layers = [[0, 1], [3, 3]]"), model(6))
    assert layout.own[4] == (FOUNDATIONAL,)


def test_blocks_by_name():
    covers = ('blocks = ["layer.1", "head"]', 'blocks = ["layer.0"]', 'blocks = ["embedding"]')
    assert resolve(policy(*covers), model(2)).own == ((FOUNDATIONAL,), (BEHAVIORAL,), (SURFACE,), (SURFACE,))


TOP, MIDDLE, BOTTOM = "layers = [[-1, -1]]", "layers = [[1, 4]]", "layers = [[0, 0]]"


@pytest.mark.parametrize(
    ("covers", "said"),
    [
        ((TOP, "layers = [[1, 5]]", BOTTOM), "layer.5 lies in two bands"),
        ((TOP, "layers = [[2, 4]]", BOTTOM), "layer.1 lies in no band"),
        ((TOP, MIDDLE, "layers = [[1, 1]]"), "in "),
        (("layers = [[6, 6]]", MIDDLE, BOTTOM), "no layers 6 to 6"),
        (("layers = [[-7, -1]]", MIDDLE, BOTTOM), "no layers -7 to -1"),
        ((TOP, "layers = [[4, 1]]", BOTTOM), "no layers 4 to 1"),
        (("layers = []", MIDDLE, BOTTOM), "in no band"),
        ((TOP, MIDDLE, 'blocks = ["layer.0"]'), "embedding lies in no band"),
        ((TOP, MIDDLE, 'blocks = ["layer.0", "attic"]'), "no block attic"),
    ],
    ids=["twice", "missing", "both", "too-high", "too-low", "backwards", "none", "no-embedding", "unknown-block"],
)
def test_bands_that_do_not_fit(covers, said):
    with pytest.raises(BandError, match=said):
        resolve(policy(*covers), model(6))


def test_the_edge_of_a_band_does_not_run_through_a_block():
    covers = ("layers = [[7, 7]]", "layers = [[1, 6]]", "layers = [[0, 0]]")
    resolve(policy(*covers), model(8))
    with pytest.raises(BandError, match="runs through"):
        resolve(policy(*covers), model(8, layers_per_block=2))


@pytest.mark.parametrize("layers", [0, -1, BLOCKS_MAX + 1])
def test_a_model_has_layers(layers):
    with pytest.raises(BandError):
        model(layers)


def test_a_model_has_no_two_blocks_of_one_name():
    twice = Architecture(1, (ModelBlock("a", 1, is_embedding=True), ModelBlock("a", 1, (0, 0))))
    for bad in (twice, Architecture(1, ())):
        with pytest.raises(BandError):
            resolve(policy(), bad)


# ---- reserved ------------------------------------------------------------------------------------------------------


def test_a_reserved_band_lies_over_others():
    layout = resolve(policy(tail='\n[[reserved]]\nname = "alignment"\nshare = [0.6, 0.8]\n'), model(6))
    assert named(layout)["layer.4"] == ("behavioral", "alignment")
    assert [i for i, held in enumerate(layout.reserved) if held] == [5]


def test_a_reserved_band_over_blocks_that_are_not_there():
    tail = '\n[[reserved]]\nname = "alignment"\nblocks = ["adapter"]\n'
    with pytest.raises(BandError, match="adapter"):
        resolve(policy(tail=tail), model(6))


# ---- falloff -------------------------------------------------------------------------------------------------------

LAYOUTS = [
    resolve(policy(), model(96)),
    resolve(policy(), model(6)),
    resolve(policy(), model(24, head=None)),
    resolve(policy(), model(96, layers_per_block=5)),
    resolve(policy(top='measure = "parameters"'), model(40)),
    resolve(policy("layers = [[5, 5]]", "layers = [[2, 2], [4, 4]]", "layers = [[0, 1], [3, 3]]"), model(6)),
]
layouts = st.sampled_from(LAYOUTS)
weight = st.one_of(st.sampled_from([0.0, 0.2, 0.6, 1.0]), st.floats(0, 1))
three = st.tuples(weight, weight, weight)
falloffs = st.builds(Falloff, shape=st.sampled_from(["none", "linear", "smooth"]), width=st.floats(0, 1))
factors = st.floats(0, 10)


def test_weights_fall_towards_the_restricted_band():
    found = spread((1.0, 0.0, 0.0), LAYOUTS[0], Falloff(shape="smooth", width=0.05)).weights
    top = [w for w in found if w > 0]
    assert len(top) == 15
    assert top == sorted(top)
    assert 0 < top[0] < 0.1
    assert top[-1] == 1.0
    assert found[: len(found) - 15] == (0.0,) * (len(found) - 15)


def test_without_falloff_bands_have_edges():
    found = spread((1.0, 0.5, 0.0), LAYOUTS[0], Falloff(shape="none")).weights
    assert set(found) == {1.0, 0.5, 0.0}


def test_the_two_shapes():
    linear = spread((1.0, 0.0, 0.0), LAYOUTS[0], Falloff(shape="linear", width=0.1)).weights
    smooth = spread((1.0, 0.0, 0.0), LAYOUTS[0], Falloff(shape="smooth", width=0.1)).weights
    between = [(a, b) for a, b in zip(linear, smooth, strict=True) if 0 < a < 1]
    assert between
    assert all((b < a) == (a < 0.5) for a, b in between if abs(a - 0.5) > 1e-9)


@given(layouts, three, falloffs, factors)
def test_falloff_never_raises(layout, weights, falloff, factor):
    found = spread(weights, layout, falloff, factor)
    for got, own in zip(found.weights, layout.own, strict=True):
        assert 0 <= got <= min(weights[band] for band in own)


@given(layouts, three, falloffs, factors)
def test_falloff_never_goes_below_the_lowest_band(layout, weights, falloff, factor):
    found = spread(weights, layout, falloff, factor)
    assert min(found.weights) >= min(weights)
    if len(set(weights)) == 1:
        assert set(found.weights) == set(weights)


@given(layouts, three, three, falloffs, factors)
def test_a_lower_weight_never_raises_a_block(layout, high, low, falloff, factor):
    lower = tuple(map(min, high, low))
    before, after = (spread(weights, layout, falloff, factor).weights for weights in (high, lower))
    assert all(a <= b for a, b in zip(after, before, strict=True))


@given(layouts, three, falloffs, st.floats(0, 1), st.floats(0, 1))
def test_a_wider_falloff_never_raises_a_block(layout, weights, falloff, one, other):
    narrow, wide = (spread(weights, layout, falloff, f).weights for f in sorted((one, other)))
    assert all(a <= b + 1e-12 for a, b in zip(wide, narrow, strict=True))


@given(layouts, three, falloffs, factors)
def test_the_band_that_is_named_decided(layout, weights, falloff, factor):
    found = spread(weights, layout, falloff, factor)
    for got, band, own in zip(found.weights, found.bands, layout.own, strict=True):
        assert weights[band] <= got
        assert band in own or weights[band] < min(weights[b] for b in own)


# ---- levels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_weight", "level"),
    [(0.0, 0), (0.2, 3), (0.4, 6), (0.6, 9), (0.8, 12), (1.0, 15), (1 / 15, 1), (0.066, 0), (0.999, 14), (0.5, 7)],
)
def test_levels(given_weight, level):
    assert quantised(given_weight) == level


@given(st.floats(0, 1))
def test_a_level_never_exceeds_the_weight(value):
    assert 0 <= quantised(value) <= LEVELS
    assert Fraction(quantised(value), LEVELS) <= Fraction(value) + Fraction(1, 10**9)
    assert quantised(value) + 1 > value * LEVELS


@given(st.floats(0, 1), st.floats(0, 1))
def test_levels_are_monotone(one, other):
    assume(one <= other)
    assert quantised(one) <= quantised(other)


@pytest.mark.parametrize("level", range(LEVELS + 1))
def test_every_level_is_its_own(level):
    assert quantised(level / LEVELS) == level
