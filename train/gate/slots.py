"""Which block each trainable parameter belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from licet.train.blocks import BlockError, plain_name

Prefix = str | nn.Module


@dataclass(frozen=True, slots=True)
class Slot:
    """One trainable parameter; tied names share one."""

    index: int
    name: str
    block: int


def trainable(model: nn.Module) -> dict[Tensor, list[str]]:
    """Every trainable parameter with all its names."""
    found: dict[Tensor, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            found.setdefault(parameter, []).append(plain_name(name))
    return found


def assign(model: nn.Module, blocks: Mapping[str, Sequence[Prefix]]) -> list[tuple[Tensor, Slot]]:
    """Give each trainable parameter its block, or say which one has none or two."""
    if not blocks:
        raise BlockError("A gate needs at least one block.")
    prefixes = [_names(model, members) for members in blocks.values()]
    _refuse_unknown(model, blocks, prefixes)
    titles = list(blocks)
    found = []
    for index, (parameter, names) in enumerate(trainable(model).items()):
        held = [b for b, members in enumerate(prefixes) if any(_within(name, members) for name in names)]
        label = " = ".join(names)
        if not held:
            raise BlockError(f"The trainable parameter {label} is in no block.", remedy="Add it to one, or freeze it.")
        if len(held) > 1:
            raise BlockError(
                f"{label} is in two blocks, {titles[held[0]]} and {titles[held[1]]}.",
                remedy="Put it into one; tied weights are one parameter and go into one block.",
            )
        found.append((parameter, Slot(index, names[0], held[0])))
    if not found:
        raise BlockError("The model has no trainable parameter.")
    return found


def _names(model: nn.Module, members: Sequence[Prefix]) -> tuple[str, ...]:
    if isinstance(members, str | nn.Module):
        raise BlockError("A block is a list of modules or prefixes, not a single one.")
    paths = {id(module): path for path, module in model.named_modules(remove_duplicate=False)}
    found = []
    for member in members:
        if isinstance(member, nn.Module):
            if id(member) not in paths:
                raise BlockError(f"The module {type(member).__name__} in a block is not a part of the model.")
            found.append(plain_name(paths[id(member)]))
        else:
            found.append(member)
    return tuple(found)


def _within(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or not prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _refuse_unknown(model: nn.Module, blocks: Mapping[str, object], prefixes: Sequence[Sequence[str]]) -> None:
    known = {plain_name(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    paths = {plain_name(path) for path, _ in model.named_modules(remove_duplicate=False)} | known
    for title, members in zip(blocks, prefixes, strict=True):
        for prefix in members:
            if prefix not in paths:
                raise BlockError(f"{prefix} in block {title} names no module and no parameter of the model.")
