"""Memorization while training: an example whose gradient norm is not what its block is used to, and what is done then.

Each norm is compared with the running statistics of its block (`watch/statistics.py`). Two things are told apart:

    above   far more comes from this example than from others: it is being encoded rather than learned from
    below   hardly anything is left to learn, of a text that was recorded as holding information: it is stored already

How far is far depends on the band of the block and on the entropy band that was recorded when the example was admitted.
Predictable text may come and go quietly; dense text may not. An example is therefore watched under the entropy that it
was *admitted* with: measured again after it was memorized, it would count as predictable and never be found.

What is flagged and what that is worth was measured: `python -m benchmarks.memorization`. It does not know the ledger or
the content: only keys, norms, and the policy's section [memorization].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from licet.ledger.norms import LEVEL_MAX, LEVELS
from licet.ledger.records import Licence, LicenceKind
from licet.policies.bands import Layout
from licet.policies.policy import Policy
from licet.policies.schema import ALL_OTHERS, Concentrated, Memorization, Response, Side, Sigmas
from licet.train.watch.statistics import Floats, MemorizationError, RunningNorms, numbers

SURFACE = Sigmas(low=4, high=8)
DEEPER = Sigmas(low=2, high=4)
_STRICTER: tuple[Response, ...] = ("record", "attenuate", "restrict", "unlearn-once", "exclude")
"""Of a block in two bands, the response that stands further right counts."""
_SIDES: tuple[Side, ...] = ("above", "below")
_STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Flag:
    """One example in some blocks, on one side, with one response. Score and threshold are of the block furthest off."""

    step: int
    example: Hashable
    blocks: tuple[int, ...]
    score: float
    threshold: float
    response: Response
    side: Side


class PlacedParameters(Protocol):
    """What is asked of a gate: which block a parameter lies in."""

    @property
    def block_names(self) -> Sequence[str]: ...
    def block_of(self, parameter: Tensor) -> int: ...


class Watch:
    """Looks at the norms of each step. The same norms in the same order give the same flags, also after a resume."""

    def __init__(self, settings: Memorization, layout: Layout, entropy_names: Sequence[str]) -> None:
        self._settings = settings
        self._entropy = {name: i for i, name in enumerate(entropy_names)}
        if not self._entropy or len(self._entropy) < len(entropy_names):
            raise MemorizationError(
                "A watch needs entropy bands, each with a name of its own.", remedy="Use a policy's."
            )
        self._thresholds_EB = thresholds(settings, layout, len(entropy_names))
        self._responses = {side: responses(settings, layout, side) for side in _SIDES}
        self._running = RunningNorms(len(layout.blocks), settings.observations_min, settings.window)
        self._step = -1

    def observe(
        self, step: int, examples: Sequence[Hashable], entropy: Sequence[str], norms: NDArray[np.floating[Any]]
    ) -> list[Flag]:
        """The flags of a batch, in the order of its examples; then its norms count as seen.

        `norms` is [examples, blocks] and raw, as a gate gives them; NaN where none was computed. A step may come in
        several parts.
        """
        norms_NB = np.array(norms, dtype=np.float64)
        self._check(step, examples, entropy, norms_NB)
        self._step = step
        if not len(examples):
            return []
        scores_NB = self._running.score(norms_NB)
        self._running.add(norms_NB)
        thresholds_NB = self._thresholds_EB[[self._entropy[name] for name in entropy]]
        off = {"above": scores_NB >= thresholds_NB, "below": -scores_NB >= thresholds_NB}
        flags: list[Flag] = []
        for row in np.flatnonzero((off["above"] | off["below"]).any(1)):
            for side in (side for side in _SIDES if side in self._settings.sides):
                flags += self._flags(step, examples[row], side, off[side][row], scores_NB[row], thresholds_NB[row])
        return flags

    def state(self) -> dict[str, Any]:
        """All that later flags depend on, for JSON."""
        return {"version": _STATE_VERSION, "step": self._step, **self._running.state()}

    def restore(self, state: Any) -> None:
        """Go on from a kept state, under the same policy and layout."""
        if (
            not isinstance(state, Mapping)
            or state.get("version") != _STATE_VERSION
            or type(state.get("step")) is not int
        ):
            raise MemorizationError(
                "This is no state of a memorization watch of this version.", remedy="Start the watch anew."
            )
        self._running.restore(state)
        self._step = state["step"]

    def _flags(
        self, step: int, example: Hashable, side: Side, off_B: NDArray[np.bool_], scores_B: Floats, thresholds_B: Floats
    ) -> list[Flag]:
        """A flag for each response that the blocks of an example ask for."""
        grouped: dict[Response, list[int]] = {}
        for block in np.flatnonzero(off_B).tolist():
            grouped.setdefault(self._responses[side][block], []).append(block)
        found = []
        for response in (response for response in _STRICTER if response in grouped):
            blocks = grouped[response]
            worst = max(blocks, key=lambda b: (abs(scores_B[b]) / thresholds_B[b], -b))
            score, threshold = float(abs(scores_B[worst])), float(thresholds_B[worst])
            found.append(Flag(step, example, tuple(blocks), score, threshold, response, side))
        return found

    def _check(self, step: int, examples: Sequence[Hashable], entropy: Sequence[str], norms_NB: Floats) -> None:
        shape = (len(examples), self._thresholds_EB.shape[1])
        if norms_NB.shape != shape or len(entropy) != len(examples):
            raise MemorizationError(
                f"{len(examples)} examples in {shape[1]} blocks cannot have norms of the shape {norms_NB.shape} and "
                f"{len(entropy)} entropy bands.",
                remedy="Give one entropy band and one row of norms for each example, as `gate.norms` has them.",
            )
        unknown = [name for name in entropy if name not in self._entropy]
        if unknown:
            raise MemorizationError(
                f"The policy has no entropy band {unknown[0]!r}.", remedy=f"Its bands are {', '.join(self._entropy)}."
            )
        if (norms_NB < 0).any():
            raise MemorizationError("A norm is negative.", remedy="Pass `gate.norms` as they are.")
        if step < self._step:
            raise MemorizationError(
                f"Step {step} comes after step {self._step}.", remedy="Restore the state that was kept at that step."
            )


def thresholds(settings: Memorization, layout: Layout, entropies: int) -> Floats:
    """Deviations from which on a norm is flagged, [entropy bands, blocks]; of a block in two bands, the lower."""
    density_E = np.arange(entropies) / (entropies - 1) if entropies > 1 else np.array([0.5])
    columns = []
    for own in layout.own:
        ranges = [_sigmas(settings, layout, band) for band in own]
        columns.append(np.min([sigmas.high - (sigmas.high - sigmas.low) * density_E for sigmas in ranges], axis=0))
    return np.stack(columns, axis=1)


def responses(settings: Memorization, layout: Layout, side: Side) -> tuple[Response, ...]:
    """What the policy asks for in each block; of a block in two bands, the stricter."""
    asked = settings.response if side == "above" else settings.response_below
    by_band = [asked.get(name, asked.get(ALL_OTHERS, "record")) for name in layout.names]
    return tuple(max((by_band[band] for band in own), key=_STRICTER.index) for own in layout.own)


def respond(flag: Flag, levels: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """The levels under which the example goes on, from its next occurrence on. Never more anywhere than before.

    exclude        nothing anywhere
    restrict       nothing in the flagged bands and in all that lies below the highest of them
    attenuate      half, in the flagged blocks; flagged again, half of that
    unlearn-once   the negative of what it had, in the flagged blocks: once (see `settled`)
    record         as before
    """
    _check_levels(levels, layout)
    flagged = set(flag.blocks)
    if not flagged <= set(range(len(levels))):
        raise MemorizationError("The flag names a block that the layout has not.", remedy="Use the watch's own layout.")
    if flag.response == "exclude":
        return (0,) * len(levels)
    if flag.response == "restrict":
        bands = {band for block in flagged for band in layout.own[block]}
        top = max(block for block, own in enumerate(layout.own) if bands & set(own))
        return tuple(min(level, 0) if block <= top else level for block, level in enumerate(levels))
    if flag.response == "attenuate":
        return tuple(_halved(level) if block in flagged else level for block, level in enumerate(levels))
    if flag.response == "unlearn-once":
        return tuple(-abs(level) if block in flagged else level for block, level in enumerate(levels))
    return tuple(levels)


def settled(levels: Sequence[int]) -> tuple[int, ...]:
    """The levels after an anti-memorization update was applied: where it unlearned, nothing more happens."""
    return tuple(max(level, 0) for level in levels)


def alignments(
    model: nn.Module, loss_of_one: Callable[[], Tensor], gate: PlacedParameters, optimizer: Optimizer
) -> Floats:
    """The cosine, in each block, between one example's exact gradient and the optimizer's running update.

    It costs a forward and a backward pass of that example, outside of the gate, and leaves every `.grad` alone. Adam's
    first moment is the running update, else the momentum. NaN for a block in which either has nothing.
    """
    kept = [(p, _running_update(optimizer.state.get(p, {}))) for p in model.parameters() if p.requires_grad]
    pairs = [(parameter, update) for parameter, update in kept if update is not None]
    sums_B3 = np.zeros((len(gate.block_names), 3))
    if pairs:
        loss = loss_of_one()
        if loss.numel() != 1 or not loss.requires_grad:
            raise MemorizationError(
                "The loss of one example is one number with a gradient.",
                remedy="Let loss_of_one() run the model on that example, with gradients on, and reduce its loss.",
            )
        gradients = torch.autograd.grad(loss.reshape(()), [parameter for parameter, _ in pairs], allow_unused=True)
        for (parameter, update), gradient in zip(pairs, gradients, strict=True):
            if gradient is not None:
                g, u = gradient.detach().double().flatten(), update.detach().double().flatten()
                sums_B3[gate.block_of(parameter)] += (float(g @ u), float(g @ g), float(u @ u))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines_B: Floats = sums_B3[:, 0] / np.sqrt(sums_B3[:, 1] * sums_B3[:, 2])
    return np.where(np.isfinite(cosines_B), cosines_B.clip(-1, 1), np.nan)


def second_look(flag: Flag, alignment_B: Floats) -> Flag | None:
    """A flag in the light of where the example's gradient points; None if it does not hold.

    Its score is multiplied by 1 plus the mean cosine over the flagged blocks: one that pulls with the running update
    drives it and weighs up to double, one that stands across weighs the same, one that pulls against it is not what
    the optimizer is encoding. Where nothing is known (no optimizer state yet) the flag stays, and so does one for a
    norm that has collapsed: it drives nothing.
    """
    if flag.side == "below":
        return flag
    cosines = [float(alignment_B[block]) for block in flag.blocks if math.isfinite(alignment_B[block])]
    if not cosines:
        return flag
    score = flag.score * (1 + min(max(sum(cosines) / len(cosines), -1.0), 1.0))
    if score < flag.threshold:
        return None
    return replace(flag, score=score)


@dataclass(frozen=True, slots=True)
class Violation:
    """An attestation that may not reach the depths, and the few deep blocks in which `share` of its exposure sits."""

    attestation: int | str
    blocks: tuple[int, ...]
    share: float
    share_max: float


class Concentration:
    """Recorded exposure, |weight| times norm, of each attestation in each block, and what is out of proportion in it.

    A weight in every block of a middle band is no permission to be stored in two of them: that is a violation of the
    policy, not a statistic.
    """

    def __init__(self, settings: Concentrated, layout: Layout) -> None:
        surface = layout.names[layout.surface]
        watched = set(settings.bands or (name for name in layout.names if name != surface))
        self._settings = settings
        self._blocks = len(layout.blocks)
        self._deep = [b for b, own in enumerate(layout.own) if any(layout.names[band] in watched for band in own)]
        self._deepest = _deepest(layout)
        self._sums: dict[int | str, Floats] = {}

    def observe(self, attestations: Sequence[int | str], levels: ArrayLike, norms: NDArray[np.floating[Any]]) -> None:
        """Add what was applied: of each example its attestation, levels [examples, blocks] and raw norms."""
        levels_NB, norms_NB = np.asarray(levels, dtype=np.float64), np.asarray(norms, dtype=np.float64)
        if not levels_NB.shape == norms_NB.shape == (len(attestations), self._blocks):
            raise MemorizationError(
                f"{len(attestations)} examples in {self._blocks} blocks cannot have levels of the shape "
                f"{levels_NB.shape} and norms of the shape {norms_NB.shape}.",
                remedy="Give one row of each for each example, as the step was recorded.",
            )
        with np.errstate(invalid="ignore"):
            exposure_NB = np.abs(levels_NB) / LEVELS * norms_NB
        for attestation, row_B in zip(attestations, np.where(np.isfinite(exposure_NB), exposure_NB, 0.0), strict=True):
            known = self._sums.get(attestation)
            self._sums[attestation] = row_B if known is None else known + row_B

    def violations(
        self, permitted: Mapping[int | str, Collection[str]], among: Iterable[int | str] | None = None
    ) -> list[Violation]:
        """Those whose licence (`permitted_bands`) leaves out the deepest band, in the order in which they appeared.

        With `among`, only these are looked at. Where there are no more than `blocks_max` deep blocks, nothing can be
        concentrated in so few of them.
        """
        most = self._settings.blocks_max
        known = self._sums if among is None else {key: self._sums[key] for key in among if key in self._sums}
        if len(self._deep) <= most or not known:
            return []
        sums_AB = np.stack(list(known.values()))
        highest_A = np.sort(sums_AB[:, self._deep], axis=1)[:, -most:].sum(1)
        totals_A = sums_AB.sum(1)
        shares_A = np.where(totals_A > 0, highest_A / np.where(totals_A > 0, totals_A, 1), 0)
        keys, found = list(known), []
        for row in np.flatnonzero(shares_A > self._settings.share_max).tolist():
            if self._deepest not in permitted.get(keys[row], ()):
                highest = np.argsort(-sums_AB[row, self._deep], kind="stable")[:most]
                held = tuple(sorted(self._deep[i] for i in highest if sums_AB[row, self._deep[i]] > 0))
                found.append(Violation(keys[row], held, float(shares_A[row]), self._settings.share_max))
        return found

    def state(self) -> dict[str, Any]:
        """All that later violations depend on, for JSON."""
        return {"version": _STATE_VERSION, "sums": [[key, sums_B.tolist()] for key, sums_B in self._sums.items()]}

    def restore(self, state: Any) -> None:
        """Go on from a kept state, under the same policy and layout."""
        try:
            if state["version"] != _STATE_VERSION:
                raise ValueError("another version")
            sums = {key: numbers(values, self._blocks) for key, values in state["sums"]}
            if any(type(key) not in (int, str) or (row_B < 0).any() for key, row_B in sums.items()):
                raise ValueError("no exposure")
        except (TypeError, KeyError, ValueError) as error:
            raise MemorizationError(
                "The kept exposure of attestations cannot be used.",
                remedy="Resume under the policy and model that it was kept under, or add it up from the ledger.",
            ) from error
        self._sums = sums


def permitted_bands(policy: Policy, licence: Licence, layout: Layout) -> frozenset[str]:
    """The depth bands that a licence itself leaves open under a policy, whatever else restricts an example."""
    kind = policy.document.licence.get(licence.kind)
    weights = policy.weights(kind.ceiling) if kind is not None else ()
    opened = {name for name, weight in zip(layout.names, weights, strict=False) if weight > 0}
    if licence.bands:
        opened &= set(licence.bands)
    if licence.kind is LicenceKind.TIME_LIMITED:
        opened &= {layout.names[layout.surface]}
    return frozenset(opened)


def _deepest(layout: Layout) -> str:
    """The band whose blocks lie lowest."""
    middles = {
        name: float(np.mean([block for block, own in enumerate(layout.own) if band in own] or [len(layout.own)]))
        for band, name in enumerate(layout.names)
        if band != layout.surface
    }
    return min(middles, key=lambda name: middles[name])


def _sigmas(settings: Memorization, layout: Layout, band: int) -> Sigmas:
    usual = SURFACE if band == layout.surface else DEEPER
    return settings.thresholds.get(layout.names[band], settings.thresholds.get(ALL_OTHERS, usual))


def _halved(level: int) -> int:
    return level // 2 if level > 0 else level


def _check_levels(levels: Sequence[int], layout: Layout) -> None:
    if len(levels) != len(layout.blocks) or any(abs(level) > LEVEL_MAX for level in levels):
        raise MemorizationError(
            f"{len(levels)} levels are no profile of a model with {len(layout.blocks)} blocks.",
            remedy=f"Give one level for each block, from {-LEVEL_MAX} to {LEVEL_MAX}; {LEVELS} stands for full weight.",
        )


def _running_update(state: Mapping[str, Any]) -> Tensor | None:
    for name in ("exp_avg", "momentum_buffer"):
        if isinstance(state.get(name), Tensor):
            return state[name]  # type: ignore[no-any-return]
    return None
