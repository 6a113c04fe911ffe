"""Profile adaptation: at checkpoints, the model's entropy is read block by block, and profiles follow it within bounds.

*Reading.* What each block's output would predict if the model ended there: the mean entropy, in bits, of the prediction
that the final norm and the head make of it. High where the model has not made up its mind, low where it has. A model
with another exit than norm and head (softened logits, no head) is read by the entropy of its representations instead:
that of the spectrum of their cosines, which is low where texts look alike to a block.

*Rule.* Dense content belongs where the model still has to abstract, predictable content where it matches patterns.
Blocks stand from 0 (the most settled) to 1 (the most open), entropy bands from 0 (the most predictable) to 1 (the
densest). Where the two are more than one half apart the weight goes down, towards `factor_min` of its ceiling; where
they agree it comes back up to it. A network whose blocks all read alike has not formed, and nothing moves. The mean of
this reading and the last one is used, so that one odd sample turns no profile.

The policy bounds it: a ceiling of zero stays zero, and no weight rises above what admission would give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from licet.ledger.errors import ConfigError
from licet.ledger.norms import LEVELS
from licet.policies.bands import Layout, quantised, spread
from licet.policies.policy import Policy

BITS_MAX = 64.0
FORMED_MIN = 0.1
"""The readings of blocks differ by this part of the largest at least, or the network has not formed."""
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
_TOKENS_AT_ONCE = 1024
_SPECTRUM_TOKENS_MAX = 1024
_SAME_LOGITS = 1e-2
_ROUNDING = 1e-9


class AdaptationError(ConfigError):
    """A model, a reading or levels with which no profile can be adapted."""


# -- the rule


def ceilings(policy: Policy, layout: Layout, entropy_band: str) -> tuple[int, ...]:
    """The levels that an entropy band starts from and never exceeds."""
    return tuple(quantised(weight) for weight in _weights(policy, layout, entropy_band))


def adapt(
    policy: Policy,
    layout: Layout,
    entropy_band: str,
    levels: Sequence[int],
    entropies: Sequence[float],
    previous: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """The levels of an entropy band's profile after a checkpoint at which its blocks read so."""
    settings = policy.document.adaptation
    highest = ceilings(policy, layout, entropy_band)
    _check(layout, levels, [entropies] if previous is None else [entropies, previous])
    if not settings.enabled:
        return tuple(levels)
    weights = _weights(policy, layout, entropy_band)
    lowest = [
        min(math.ceil(settings.factor_min * weight * LEVELS - _ROUNDING), high)
        for weight, high in zip(weights, highest, strict=True)
    ]
    present = [min(max(level, low), high) for level, low, high in zip(levels, lowest, highest, strict=True)]
    factors = _factors(policy, entropy_band, entropies, previous)
    if factors is None:
        return tuple(present)
    step = int(settings.step_max * LEVELS + _ROUNDING)
    found = []
    for level, low, high, factor in zip(present, lowest, highest, factors, strict=True):
        wanted = min(max(round(high * factor), low), high)
        found.append(level + min(max(wanted - level, -step), step))
    return tuple(found)


def _factors(
    policy: Policy, entropy_band: str, entropies: Sequence[float], previous: Sequence[float] | None
) -> list[float] | None:
    """The part of its ceiling that each block should have; None where the readings say nothing."""
    readings = [(a + b) / 2 for a, b in zip(entropies, previous or entropies, strict=True)]
    low, high = min(readings), max(readings)
    formed = (high - low) / high if high > 0 else 0.0
    if formed < FORMED_MIN:
        return None
    names = policy.entropy_names
    density = names.index(entropy_band) / (len(names) - 1) if len(names) > 1 else 0.5
    most = (1 - policy.document.adaptation.factor_min) * formed
    return [1 - most * max(0.0, 2 * abs(density - (reading - low) / (high - low)) - 1) for reading in readings]


def _weights(policy: Policy, layout: Layout, entropy_band: str) -> tuple[float, ...]:
    for band in policy.document.entropy:
        if band.name == entropy_band:
            return spread(policy.weights(band.ceiling), layout, policy.document.falloff, band.falloff).weights
    raise AdaptationError(
        f"The policy has no entropy band {entropy_band!r}.", remedy=f"Its bands are {', '.join(policy.entropy_names)}."
    )


def _check(layout: Layout, levels: Sequence[int], readings: Sequence[Sequence[float]]) -> None:
    blocks = len(layout.blocks)
    if len(levels) != blocks or any(not 0 <= level <= LEVELS for level in levels):
        raise AdaptationError(
            f"These are no levels of {blocks} blocks.", remedy=f"Give one of 0 to {LEVELS} for each block."
        )
    for reading in readings:
        if len(reading) != blocks or any(not 0 <= bits <= BITS_MAX for bits in reading):
            raise AdaptationError(
                f"These are no entropies of {blocks} blocks.",
                remedy=f"Give one of 0 to {BITS_MAX:g} bits for each block, as block_entropies() reads them.",
            )


# -- the reading


def block_entropies(
    model: nn.Module,
    layout: Layout,
    prefixes: Mapping[str, Sequence[str]],
    input_ids_BT: Tensor,
    mask_BT: Tensor | None = None,
) -> tuple[float, ...]:
    """The bits that each block's output still leaves open, over a sample of texts; `prefixes` as of `blocks_for`.

    The embedding is read before the first layer, the head by the model's own prediction. Where they are one tied block,
    it has the mean of both. Padding is left out by the mask.
    """
    states, logits_BTV = _run(model, layout, prefixes, input_ids_BT, mask_BT)
    kept_N = (torch.ones_like(input_ids_BT) if mask_BT is None else mask_BT).flatten().bool()
    if not kept_N.any():
        raise AdaptationError("The sample has no token.", remedy="Give some texts of the corpus.")
    flat = [state.flatten(0, 1)[kept_N.to(state.device)] for state in states]
    head = _exit(model, prefixes, layout, states[-1], logits_BTV)
    with _evaluating(model):
        bits = [_spectrum_bits(state_ND) if head is None else _prediction_bits(head, state_ND) for state_ND in flat]
    below, layers = bits[0], iter(bits[1:])
    found = []
    for block in layout.blocks:
        if block.layers is not None:
            found.append(next(layers))
        else:
            ends = [below] * block.is_embedding + [bits[-1]] * block.is_head
            found.append(sum(ends) / len(ends))
    if not all(math.isfinite(value) for value in found):
        raise AdaptationError(
            "The model's states are not finite, so nothing can be read from them.", remedy="Load the last seal."
        )
    return tuple(min(max(value, 0.0), BITS_MAX) for value in found)


def _run(
    model: nn.Module,
    layout: Layout,
    prefixes: Mapping[str, Sequence[str]],
    input_ids_BT: Tensor,
    mask_BT: Tensor | None,
) -> tuple[list[Tensor], Tensor | None]:
    """What goes into the first layer, what comes out of the last layer of each block, and the model's logits."""
    if input_ids_BT.dim() != 2 or input_ids_BT.is_floating_point() or not input_ids_BT.numel():
        raise AdaptationError("A sample is a table of token ids, [texts, tokens].", remedy="Tokenize some texts.")
    ends = _last_layers(model, layout, prefixes)
    states: dict[int, Tensor] = {}

    def keep(place: int, value: Any) -> None:
        states[place] = (value[0] if isinstance(value, tuple) else value).detach()

    with ExitStack() as hooks, _evaluating(model):
        first = _part(model, _first_layer(layout, prefixes))

        def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(0, args[0] if args else kwargs["hidden_states"])

        hooks.callback(first.register_forward_pre_hook(entering, with_kwargs=True).remove)
        for place, module in enumerate(ends, 1):
            hook = module.register_forward_hook(lambda _m, _args, output, place=place: keep(place, output))
            hooks.callback(hook.remove)
        device = next(model.parameters()).device
        mask = {} if mask_BT is None else {"attention_mask": mask_BT.to(device)}
        output = model(input_ids=input_ids_BT.to(device), **mask)
    shape = input_ids_BT.shape
    if len(states) != len(ends) + 1 or any(s.dim() != 3 or s.shape[:2] != shape for s in states.values()):
        raise AdaptationError(
            "The model's layers do not pass on one state for each token, so its blocks cannot be read.",
            remedy="Switch adaptation off in the policy for this model.",
        )
    logits_BTV = getattr(output, "logits", None)
    return [states[place] for place in range(len(ends) + 1)], logits_BTV


def _last_layers(model: nn.Module, layout: Layout, prefixes: Mapping[str, Sequence[str]]) -> list[nn.Module]:
    """The module with which each block of layers ends."""
    found = []
    for block in layout.blocks:
        if block.layers is not None:
            first, last = block.layers
            members = prefixes.get(block.name, ())
            if len(members) <= last - first:
                raise AdaptationError(
                    f"The layers of the block {block.name} are not named.", remedy="Pass the result of blocks_for()."
                )
            found.append(_part(model, members[last - first]))
    if not found:
        raise AdaptationError("The layout has no layers.", remedy="Switch adaptation off in the policy.")
    return found


def _first_layer(layout: Layout, prefixes: Mapping[str, Sequence[str]]) -> str:
    return prefixes[next(block.name for block in layout.blocks if block.layers is not None)][0]


def _part(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise AdaptationError(
            f"The model has no part {path}.", remedy="Pass the model itself, without the wrapper it is trained in."
        ) from error


def _exit(
    model: nn.Module,
    prefixes: Mapping[str, Sequence[str]],
    layout: Layout,
    last_BTD: Tensor,
    logits_BTV: Tensor | None,
) -> nn.Module | None:
    """Final norm and head, if they are all that lies between the last layer and the model's own prediction."""
    outputs = getattr(model, "get_output_embeddings", lambda: None)()
    if outputs is None or not isinstance(logits_BTV, Tensor):
        return None
    parent = _part(model, _first_layer(layout, prefixes).rpartition(".")[0].rpartition(".")[0])
    norm = next((part for name in _FINAL_NORMS if isinstance(part := getattr(parent, name, None), nn.Module)), None)
    if norm is None:
        return None
    both = nn.Sequential(norm, outputs)
    with _evaluating(model):
        again_TV = both(last_BTD[0])
        gap = (again_TV.float() - logits_BTV[0].float()).abs().max()
        size = logits_BTV[0].float().abs().max()
    return both if float(gap) <= _SAME_LOGITS * max(float(size), 1.0) else None


def _prediction_bits(head: nn.Module, state_ND: Tensor) -> float:
    """The mean entropy of what the model would predict from these states."""
    total = 0.0
    for state_CD in torch.split(state_ND, _TOKENS_AT_ONCE):
        logs_CV = torch.log_softmax(head(state_CD).float(), -1)
        total -= float((logs_CV.exp() * logs_CV).nan_to_num(0.0).sum(dtype=torch.float64))
    return total / len(state_ND) / math.log(2)


def _spectrum_bits(state_ND: Tensor) -> float:
    """The entropy of the spectrum of the states' cosines: how many directions are in use, in bits."""
    every = -(-len(state_ND) // _SPECTRUM_TOKENS_MAX)
    unit_ND = nn.functional.normalize(state_ND[::every].double(), dim=-1)
    gram = unit_ND.T @ unit_ND if unit_ND.shape[1] < unit_ND.shape[0] else unit_ND @ unit_ND.T
    if not bool(torch.isfinite(gram).all()):
        return math.nan
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    shares = values / values.sum()
    return float(-torch.xlogy(shares, shares).sum()) / math.log(2)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and without gradients; each module's own mode comes back after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
