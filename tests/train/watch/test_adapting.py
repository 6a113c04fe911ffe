"""Profile adaptation through a whole run: what is read at checkpoints, recorded once, and kept with the state."""

from __future__ import annotations

from pathlib import Path

import torch

from licet.ledger.reader import LogReader
from licet.ledger.records import ProfileAdapted, ProfileDeclared
from tests.policies.documents import ALL
from tests.train.homes import Place, make

ENTROPY = [
    {"name": "low", "below": 2.0, "ceiling": ALL},
    {"name": "middle", "below": 4.0, "ceiling": ALL},
    {"name": "high", "ceiling": ALL},
]
MEMORIZATION = {"repeats_max": 0, "response": {"*": "record"}, "response_below": {"*": "record"}}


def trained(folder: Path, *, enabled: bool) -> tuple[Place, list[ProfileAdapted], list[ProfileDeclared]]:
    torch.set_num_threads(1)
    folder.mkdir()
    adaptation = {"enabled": enabled, "factor_min": 0.2, "step_max": 0.5}
    place = make(folder, entropy=ENTROPY, adaptation=adaptation, memorization=MEMORIZATION)
    place.licet(
        "train",
        place.run_file(
            schedule={"steps": 40, "batch": 8}, optimizer={"learning_rate": 0.01}, checkpoints={"every": 20}
        ),
    )
    with LogReader.open(place.home.log("training")) as log:
        adapted = [one for _, one in log.all_of(ProfileAdapted)]
        return place, adapted, [one for _, one in log.all_of(ProfileDeclared)]


def test_profiles_follow_the_model_within_bounds_and_each_change_is_an_entry(tmp_path: Path) -> None:
    _, adapted, declared = trained(tmp_path / "on", enabled=True)
    assert adapted and {one.step for one in adapted} <= {20, 40}
    for one in adapted:
        assert one.new_levels != one.old_levels and len(one.block_entropies) == len(one.new_levels)
        assert all(3 <= level <= 15 for level in one.new_levels), "between factor_min and the ceiling"
    taught = {rule for one in declared for rule in one.rules if rule.startswith("adaptation/")}
    assert taught <= {f"adaptation/{band['name']}" for band in ENTROPY}
    first = {one.entropy_band for one in adapted if one.step == 20}
    assert ("high" in first) == ("adaptation/high" in taught), "what the texts of this run are measured as"


def test_where_the_policy_does_not_enable_it_nothing_moves(tmp_path: Path) -> None:
    _, adapted, declared = trained(tmp_path / "off", enabled=False)
    assert not adapted and not any(rule.startswith("adaptation/") for one in declared for rule in one.rules)
