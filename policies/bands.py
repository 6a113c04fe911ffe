"""From layers to blocks to bands: which block of a model a policy's bands cover, and how weights pass between them.

Depth runs from 0, the bottom, to 1, the top. A block lies where its middle lies. The same policy resolves for a model
of 6 layers and for one of 96.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from licet.ledger.errors import ConfigError
from licet.ledger.norms import LEVELS
from licet.ledger.records import Block
from licet.policies.policy import Policy
from licet.policies.schema import Cover, Falloff

BLOCKS_MAX = 4096
_ROUNDING = 1e-9
"""0.6 · 15 is a hair under 9 in binary, and is meant to be 9."""


class BandError(ConfigError):
    """A policy's bands do not fit a model."""


@dataclass(frozen=True, slots=True)
class ModelBlock:
    """A group of layers [first, last], or the embedding or head at an end; where weights are tied, both at once."""

    name: str
    parameters: int
    layers: tuple[int, int] | None = None
    is_embedding: bool = False
    is_head: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """The blocks of a model, from the bottom up."""

    layers: int
    blocks: tuple[ModelBlock, ...]

    @classmethod
    def uniform(
        cls, layers: int, *, layers_per_block: int = 1, embedding: int, layer: int, head: int | None = None
    ) -> Architecture:
        """A stack of equal layers with this many parameters each; no head means that it is tied to the embedding."""
        if not 1 <= layers <= BLOCKS_MAX or layers_per_block < 1:
            raise BandError(f"A model has 1 to {BLOCKS_MAX} layers, in blocks of one at least.")
        blocks = [ModelBlock("embedding", embedding, is_embedding=True, is_head=head is None)]
        for first in range(0, layers, layers_per_block):
            last = min(first + layers_per_block, layers) - 1
            name = f"layer.{first}" if first == last else f"layers.{first}-{last}"
            blocks.append(ModelBlock(name, layer * (last - first + 1), (first, last)))
        if head is not None:
            blocks.append(ModelBlock("head", head, is_head=True))
        return cls(layers, tuple(blocks))


@dataclass(frozen=True, slots=True)
class Layout:
    """A policy's bands on a model's blocks."""

    blocks: tuple[ModelBlock, ...]
    own: tuple[tuple[int, ...], ...]
    """Of each block, the depth bands that it lies in: one, or two for tied weights."""
    distances: tuple[tuple[float, ...], ...]
    """[block][band]: how far the block is from each depth band; 0 for its own."""
    reserved: tuple[tuple[int, ...], ...]
    """Of each block, the reserved bands that cover it."""
    surface: int
    """The depth band at the top."""
    names: tuple[str, ...]
    reserved_names: tuple[str, ...]

    def bands_of(self, block: int) -> tuple[str, ...]:
        held = [self.names[band] for band in self.own[block]]
        return (*held, *(self.reserved_names[band] for band in self.reserved[block]))

    def as_records(self) -> tuple[Block, ...]:
        """The blocks as a run's first entry states them."""
        return tuple(Block(b.name, self.bands_of(i), b.parameters) for i, b in enumerate(self.blocks))


def resolve(policy: Policy, model: Architecture) -> Layout:
    """Lay a policy's bands over a model; a layer in two bands or in none is refused."""
    document = policy.document
    extents = _extents(model, document.measure)
    covers = [_covered(band, model, extents) for band in document.band]
    own = []
    for i, block in enumerate(model.blocks):
        held = tuple(b for b, (members, _) in enumerate(covers) if i in members)
        ends = block.is_embedding + block.is_head
        if len(held) > max(1, ends):
            names = " and ".join(document.band[b].name for b in held)
            raise BandError(f"{block.name} lies in two bands, {names}.", remedy="Let each layer stand in one band.")
        if not held:
            raise BandError(f"{block.name} lies in no band of {document.name}.", remedy="Let the bands cover it.")
        own.append(held)
    distances = tuple(
        tuple(0.0 if b in held else _distance(extents[i], pieces) for b, (_, pieces) in enumerate(covers))
        for i, held in enumerate(own)
    )
    reserved = [_covered(cover, model, extents)[0] for cover in document.reserved]
    top = max(range(len(own)), key=lambda i: max(end for _, end in extents[i]))
    surface = min(own[top], key=lambda b: -max((end for _, end in covers[b][1]), default=0.0))
    return Layout(
        model.blocks,
        tuple(own),
        distances,
        tuple(tuple(r for r, members in enumerate(reserved) if i in members) for i in range(len(own))),
        surface,
        policy.bands,
        tuple(cover.name for cover in document.reserved),
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """A weight for each block, and the band whose weight it follows."""

    weights: tuple[float, ...]
    bands: tuple[int, ...]


def spread(weights: Sequence[float], layout: Layout, falloff: Falloff, factor: float = 1.0) -> Spread:
    """Weights of bands as weights of blocks, falling off towards more restricted bands and never rising.

    Each block gets the smallest of: the weight of a band, plus what the distance to that band is worth. That is why a
    lower weight anywhere never raises one elsewhere.
    """
    width = 0.0 if falloff.shape == "none" else falloff.width * factor
    found = [min(_candidates(weights, distances, falloff, width)) for distances in layout.distances]
    return Spread(tuple(weight for weight, _, _ in found), tuple(band for _, _, band in found))


def quantised(weight: float) -> int:
    """The level of a weight, 0 to 15: never more than the weight, and zero stays zero."""
    return min(int(weight * LEVELS + _ROUNDING), LEVELS)


def _candidates(
    weights: Sequence[float], distances: Sequence[float], falloff: Falloff, width: float
) -> Iterator[tuple[float, float, int]]:
    for band, (weight, distance) in enumerate(zip(weights, distances, strict=True)):
        if distance == 0:
            yield weight, 0.0, band
        elif distance < width:
            part = distance / width
            rise = part if falloff.shape == "linear" else part * part * (3 - 2 * part)
            yield weight + rise, distance, band


Extent = tuple[float, float]


def _extents(model: Architecture, measure: str) -> list[tuple[Extent, ...]]:
    """Where each block lies. However large they are, the embedding lies at the bottom and the head at the top."""
    if not model.blocks or len(model.blocks) > BLOCKS_MAX or len({b.name for b in model.blocks}) < len(model.blocks):
        raise BandError(f"A model has 1 to {BLOCKS_MAX} blocks, each with a name of its own.")
    total = sum(block.parameters for block in model.blocks)
    if measure == "parameters" and total <= 0:
        raise BandError("Shares of parameters need a model that has some.")
    found: list[tuple[Extent, ...]] = []
    below = 0
    for block in model.blocks:
        if block.layers is None:
            extent = (0.0, 0.0) if block.is_embedding else (1.0, 1.0)
        elif measure == "parameters":
            extent = (below / total, (below + block.parameters) / total)
        else:
            extent = (block.layers[0] / model.layers, (block.layers[1] + 1) / model.layers)
        below += block.parameters
        both = block.is_embedding and block.is_head
        found.append((extent, (1.0, 1.0)) if both else (extent,))
    return found


def _covered(cover: Cover, model: Architecture, extents: Sequence[tuple[Extent, ...]]) -> tuple[set[int], list[Extent]]:
    """The blocks in a cover, and the stretches of depth that it takes up."""
    if cover.share is not None:
        low, high = cover.share
        inside = {
            i
            for i, where in enumerate(extents)
            if any(low <= (a + b) / 2 < high or (a + b) / 2 == high == 1.0 for a, b in where)
        }
        return inside, [(low, high)]
    if cover.layers is not None:
        wanted = _layer_numbers(cover.layers, model)
        members = set()
        for i, block in enumerate(model.blocks):
            if block.layers is not None:
                numbers = set(range(block.layers[0], block.layers[1] + 1))
                if numbers & wanted and not numbers <= wanted:
                    raise BandError(
                        f"The edge of a band runs through {block.name}.",
                        remedy="Let bands begin and end where blocks do, or make the blocks smaller.",
                    )
                if numbers <= wanted:
                    members.add(i)
            elif (block.is_embedding and 0 in wanted) or (block.is_head and model.layers - 1 in wanted):
                members.add(i)
    else:
        names = {block.name: i for i, block in enumerate(model.blocks)}
        unknown = [name for name in cover.blocks or () if name not in names]
        if unknown:
            raise BandError(f"The model has no block {unknown[0]}.", remedy=f"Its blocks are {', '.join(names)}.")
        members = {names[name] for name in cover.blocks or ()}
    return members, [extent for i in sorted(members) for extent in extents[i]]


def _layer_numbers(ranges: Sequence[tuple[int, int]], model: Architecture) -> set[int]:
    numbers: set[int] = set()
    for first, last in ranges:
        a, b = (n + model.layers if n < 0 else n for n in (first, last))
        if not 0 <= a <= b < model.layers:
            raise BandError(f"There are no layers {first} to {last} in a model of {model.layers}.")
        numbers |= set(range(a, b + 1))
    return numbers


def _distance(where: Sequence[Extent], pieces: Sequence[Extent]) -> float:
    """From the middle of a block to the nearest edge of a band."""
    gaps = [max(low - (a + b) / 2, (a + b) / 2 - high, 0.0) for a, b in where for low, high in pieces]
    return max(min(gaps, default=2.0), 1e-12)
