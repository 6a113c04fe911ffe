"""What a revocation would touch, as `licet revoke` shows it first. It may be unknown, and never stands in the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from licet.ledger import terminal
from licet.ledger.errors import LicetError
from licet.ledger.home import Home
from licet.ledger.reader import LogReader
from licet.ledger.records import Digest
from licet.policies.impact import Impact, SealedModel, impact
from licet.policies.registry import Registry
from licet.policies.rights import LicenceState
from licet.policies.rulebook import Rulebook

_NAMED_MAX = 8


def preview(home: Home, registry: Registry, attestation: Digest, *, at_ms: int, budget_s: float) -> Impact | None:
    """The impact, as far as it can be told within the budget; None if it cannot be told at all."""
    try:
        before = registry.licence_state(attestation, at_ms)
        with LogReader.open(home.log("training")) as training, LogReader.open(home.log("runtime")) as runtime:
            return impact(
                training,
                runtime,
                attestation,
                before,
                LicenceState.REVOKED,
                Rulebook.of(registry.policy()),
                clock=time.monotonic,
                budget_s=budget_s,
                now_ms=at_ms,
            )
    except LicetError as error:
        terminal.say(f"note: what this touches is unknown: {error.message}")
        return None


def say(found: Impact | None) -> None:
    """The preview, for a person."""
    if found is None:
        return
    examples, models, verdicts = found.examples, found.models, found.verdicts
    terminal.say(f"{_count(examples.count, 'example')} taught under it{_so_far(examples.complete)}")
    deepest = [f"{row.block} {row.share:.1%}" for row in found.blocks.shares if row.total]
    terminal.say(f"blocks it shaped: {', '.join(deepest) or 'none'}{_so_far(found.blocks.complete)}")
    terminal.say(f"sealed models that contain it: {_named(models.found) or 'none'}{_so_far(models.complete)}")
    _say_past(found)
    if verdicts is not None:
        terminal.say(
            f"of {_count(verdicts.replayed, 'verdict')} of the last 24 hours, {verdicts.certain} would turn to "
            f"suppress and {verdicts.possible} might{_so_far(verdicts.complete)}"
        )


def _say_past(found: Impact) -> None:
    """What the logs cannot tell because it was before them."""
    untold = found.blocks.untold
    if untold:
        more = f" and {len(untold) - _NAMED_MAX} more" if len(untold) > _NAMED_MAX else ""
        named = ", ".join(untold[:_NAMED_MAX]) + more
        terminal.say(f"shares are of the recorded part: what shaped {named} before is unknown")
    if found.models.untold:
        terminal.say(
            f"whether these contain it is unknown, for they came from elsewhere: {_named(found.models.untold)}"
        )


def _named(models: Sequence[SealedModel]) -> str:
    return ", ".join(f"{model.model} {model.label}".strip() for model in models)


def facts(found: Impact | None) -> Any:
    """The same, for a program."""
    if found is None:
        return None
    return {**terminal.plain(found), "complete": found.complete, "past_known": found.past_known}


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _so_far(complete: bool) -> str:
    return "" if complete else " (as far as the time sufficed; beyond that is unknown)"
