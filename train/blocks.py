"""The blocks of a real model: where its layers are, what lies below and above them, and what is tied.

    the layers   the largest list of modules of one kind
    embedding    whatever the model registers before them, and its input embedding
    head         whatever it registers after them, and its output embedding

A tied weight lies in the block of the embedding, which is then a head too; what is left of the head has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from licet.ledger.errors import ConfigError
from licet.policies.bands import Architecture, Layout, ModelBlock

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Path segments that wrappers of a model put in, and that its own names do not have."""

SECOND_STACK_SHARE = 0.1
"""A second list of layers with more than this part of the first one's parameters is a second stack."""


class BlockError(ConfigError):
    """The blocks do not fit the model: a parameter in none or in two, or a prefix that names nothing."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The parts of a model, as prefixes of parameter names."""

    layers: tuple[str, ...]
    embedding: tuple[str, ...]
    head: tuple[str, ...]
    is_tied: bool


def plain_name(name: str) -> str:
    """A parameter's name as the model itself has it, without the wrappers of compilation and distribution."""
    return ".".join(segment for segment in name.split(".") if segment not in WRAPPERS)


def describe(model: nn.Module, layers_per_block: int = 1) -> tuple[Architecture, dict[str, list[str]]]:
    """A model's blocks from the bottom up, for a policy's bands, and the prefixes of each, for a gate."""
    if layers_per_block < 1:
        raise BlockError("A block holds one layer at least.")
    anatomy = examine(model)
    blocks: list[ModelBlock] = []
    prefixes: dict[str, list[str]] = {}

    def enter(name: str, members: Sequence[str], layers: tuple[int, int] | None = None, **ends: bool) -> None:
        if members:
            prefixes[name] = list(members)
            blocks.append(ModelBlock(name, _count(model, members), layers, **ends))

    enter("embedding", anatomy.embedding, is_embedding=True, is_head=anatomy.is_tied)
    for first in range(0, len(anatomy.layers), layers_per_block):
        last = min(first + layers_per_block, len(anatomy.layers)) - 1
        name = f"layer.{first}" if first == last else f"layers.{first}-{last}"
        enter(name, anatomy.layers[first : last + 1], (first, last))
    enter("head", anatomy.head, is_head=True)
    return Architecture(len(anatomy.layers), tuple(blocks)), prefixes


def blocks_for(model: nn.Module, layout: Layout) -> dict[str, list[str]]:
    """The prefixes of a layout's blocks in a model; a layout of another model is refused."""
    anatomy = examine(model)
    found: dict[str, list[str]] = {}
    below = 0
    for block in layout.blocks:
        members: list[str] = []
        if block.layers is not None:
            first, last = block.layers
            if first != below or last >= len(anatomy.layers):
                raise BlockError(
                    f"{block.name} of the layout covers layers {first} to {last}, which the model has not."
                )
            members += anatomy.layers[first : last + 1]
            below = last + 1
        if block.is_embedding:
            members += anatomy.embedding
        if block.is_head and not (block.is_embedding and any(b.is_head for b in layout.blocks if b is not block)):
            members += anatomy.head
        found[block.name] = members
    if below != len(anatomy.layers):
        raise BlockError(f"The layout has {below} layers, the model {len(anatomy.layers)}.")
    return found


def examine(model: nn.Module) -> Anatomy:
    """Find the parts."""
    stack = _stack(model)
    names = [plain_name(name) for name, _ in model.named_parameters(remove_duplicate=False)]
    inside = [i for i, name in enumerate(names) if name.startswith(f"{stack}.")]
    path_of = {id(module): plain_name(path) for path, module in model.named_modules()}
    ends = [path_of.get(id(_call(model, name))) for name in ("get_input_embeddings", "get_output_embeddings")]
    embedding: dict[str, None] = {}
    head: dict[str, None] = {}
    for i, name in enumerate(names):
        if name.startswith(f"{stack}."):
            continue
        top = _above(name, stack)
        if ends[0] and name.startswith(f"{ends[0]}."):
            embedding[top] = None
        elif ends[1] and name.startswith(f"{ends[1]}."):
            head[top] = None
        else:
            (embedding if i < inside[0] else head)[top] = None
    tied = _tied(model, embedding, head)
    for name in tied:
        del head[name]
        embedding[name] = None
    children = dict(model.named_modules())
    real = next(path for path in children if plain_name(path) == stack)
    layers = tuple(f"{stack}.{name}" for name, _ in children[real].named_children())
    return Anatomy(layers, tuple(embedding), tuple(head), bool(tied))


def _stack(model: nn.Module) -> str:
    """The path of the list of layers."""
    found: list[tuple[int, str]] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module):
            plain = plain_name(path)
            alike = len({type(child) for child in module}) == 1
            size = sum(p.numel() for p in module.parameters())
            if alike and size and not any(plain.startswith(f"{outer}.") for _, outer in found):
                found.append((size, plain))
    if not found:
        raise BlockError(
            "No list of layers was found in the model.", remedy="Give the gate the blocks as {name: [prefixes]}."
        )
    found.sort(key=lambda pair: -pair[0])
    if len(found) > 1 and found[1][0] > SECOND_STACK_SHARE * found[0][0]:
        raise BlockError(
            f"The model has two stacks of layers, {found[0][1]} and {found[1][1]}.",
            remedy="Give the gate the blocks as {name: [prefixes]}.",
        )
    return found[0][1]


def _above(name: str, stack: str) -> str:
    """The highest part of a model that holds this parameter and not the layers."""
    segments = name.split(".")
    for depth in range(1, len(segments)):
        prefix = ".".join(segments[:depth])
        if not stack.startswith(f"{prefix}."):
            return prefix
    return name


def _tied(model: nn.Module, embedding: dict[str, None], head: dict[str, None]) -> list[str]:
    """The parts of the head that share a parameter with the embedding."""
    of: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        of.setdefault(id(parameter), set()).add(plain_name(name))
    tied = []
    for part in head:
        aliases = [names for names in of.values() if any(_within(name, part) for name in names)]
        if any(_within(name, below) for names in aliases for name in names for below in embedding):
            tied.append(part)
    return tied


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _count(model: nn.Module, members: Sequence[str]) -> int:
    """Each parameter once, by its first name."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if any(_within(plain_name(name), prefix) for prefix in members)
    )


def _call(model: nn.Module, name: str) -> object:
    """What a Hugging Face model says of its own ends, where it can."""
    method = getattr(model, name, None)
    if method is None:
        return None
    try:
        return method()
    except (AttributeError, NotImplementedError):
        return None
