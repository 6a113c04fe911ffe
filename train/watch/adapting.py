"""Profile adaptation in a run: at each checkpoint the model is read and profiles follow, each adjustment an entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from licet.ledger.records import ProfileAdapted, Ref, Signed
from licet.policies.bands import Layout
from licet.policies.policy import Policy
from licet.train.run.loop import Loop
from licet.train.watch.adaptation import adapt, block_entropies, ceilings

SAMPLES = 16
"""Read at each checkpoint, evenly spread over what is taught; always the same ones."""


class Adapting:
    """What was read last, and what becomes of the profiles. Nothing happens where the policy does not enable it."""

    def __init__(
        self,
        policy: Policy,
        layout: Layout,
        prefixes: Mapping[str, Sequence[str]],
        run: int,
        recorded: Iterable[ProfileAdapted] = (),
    ) -> None:
        self._policy = policy
        self._layout = layout
        self._prefixes = prefixes
        self._run = run
        self._recorded = {(one.step, one.entropy_band) for one in recorded if one.run == run}
        self._previous: tuple[float, ...] | None = None

    @property
    def is_enabled(self) -> bool:
        return self._policy.document.adaptation.enabled

    def look(self, step: int, model: nn.Module, loop: Loop) -> Iterator[ProfileAdapted]:
        """Read the model after `step` steps and move the profiles; the adjustments that the log does not have yet."""
        samples = self._samples(loop)
        if not self.is_enabled or not samples:
            return
        inputs = loop.objective.inputs([loop.store.sample(one) for one in samples], loop.width)
        shown = inputs.labels_RT >= 0
        entropies = block_entropies(
            model, self._layout, self._prefixes, inputs.input_ids_RT, shown.to(inputs.attention_mask_RT.dtype)
        )
        previous, self._previous = self._previous, entropies
        for band in self._policy.entropy_names:
            old = loop.teaching.adapted(band, lambda band=band: ceilings(self._policy, self._layout, band))  # type: ignore[misc]
            new = adapt(self._policy, self._layout, band, old, entropies, previous)
            if new == old:
                continue
            loop.teaching.adapt(band, new)
            if (step, band) not in self._recorded:
                yield ProfileAdapted(Ref(self._run), step, band, _signed(old), _signed(new), entropies)

    def state(self) -> Any:
        return list(self._previous) if self._previous is not None else None

    def restore(self, state: Any) -> None:
        self._previous = tuple(state) if state is not None else None

    @staticmethod
    def _samples(loop: Loop) -> list[int]:
        """Of what may teach something: whatever else may not be shown to the model."""
        may = np.array([any(lesson.levels) for lesson in loop.lessons.all], bool)
        taught = np.flatnonzero(may[loop.lessons.of_sample])
        if not len(taught):
            return []
        places = np.unique(np.linspace(0, len(taught) - 1, SAMPLES).round().astype(int))
        return [int(sample) for sample in taught[places]]


def _signed(levels: Sequence[int]) -> tuple[Signed, ...]:
    return tuple(Signed(level) for level in levels)
