"""`licet unlearn` on a model that was really taught: ordered, carried out, recorded, sealed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from licet.ledger.errors import LicetError
from licet.ledger.reader import LogReader
from licet.ledger.records import AttestationMentioned, ProfileDeclared, RunStarted
from licet.policies.unlearning import UnlearningRefused
from licet.train.seals.finder import seals_in
from licet.train.seals.history import LogHistory
from licet.train.seals.verify import verify_seal
from tests.train.homes import ADA, Place, attestation, make, text

STEPS = 60
CONTEXT = 32


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A model that was taught until it knows its texts, and an attestation that was revoked since."""
    torch.set_num_threads(1)
    made = make(tmp_path_factory.mktemp("unlearning"))
    made.licet(
        "train",
        made.run_file(
            schedule={"steps": STEPS, "batch": 8}, optimizer={"learning_rate": 0.01}, checkpoints={"every": STEPS}
        ),
    )
    held_out = "".join(json.dumps({"text": text("zed", i)}) + "\n" for i in range(3))
    (made.folder / "held.jsonl").write_text(held_out)
    with pytest.raises(UnlearningRefused, match="only what is revoked"):
        order(made, "early.json")
    made.licet("revoke", attestation(made.home, ADA), "--reason", "the licence ended")
    return made


def order(place: Place, name: str, *more: object) -> Path:
    file = place.folder / name
    place.licet("unlearn", "order", attestation(place.home, ADA), file, "--reason", "the licence ended", *more)
    return file


def carry_out(place: Place, file: Path, capsys: pytest.CaptureFixture[str], *more: object) -> dict[str, Any]:
    capsys.readouterr()
    taught = place.home.path / "models" / "tiny" / f"run-{STEPS:08d}"
    settings = ("--held-out", place.folder / "held.jsonl", "--context", CONTEXT, "--learning-rate", 0.001, *more)
    place.licet("unlearn", "run", taught, "--order", file, *settings, "--json")
    said: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return said


def test_it_is_recorded_like_learning_and_sealed(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    file = order(place, "order.json", "--damage-max", 1, "--weight", "foundational=-1", "--weight", "surface=-0.4")
    done = carry_out(place, file, capsys, "--steps-max", 4)
    assert done["steps"] == 4 and done["examples"] == 6 and done["loss_after"] > done["loss_before"]
    with LogReader.open(place.home.log("training")) as log:
        run, started = next((i, one) for i, one in log.all_of(RunStarted) if one.run == done["run"])
        mentioned = {ref for ref, one in log.all_of(AttestationMentioned) if one.source == ADA}
        (declared,) = [one for _, one in log.all_of(ProfileDeclared) if one.run == run]
        names = [block.name for block in started.blocks]
        assert declared.levels[names.index("embedding")] == -15 and declared.levels[names.index("head")] == -6
        assert all(rule.startswith("unlearning.") for rule in declared.rules) and min(declared.levels[2:4]) == 0
        reached = np.array(declared.levels) != 0
        count = 0
        for events, _, _ in log.exposure.events_between(run, log.size):
            assert set(events.attestation.tolist()) <= mentioned
            assert (events.codes[:, reached] > 0).all()
            count += len(events)
        assert count >= 4
        report = verify_seal(
            Path(done["directory"]),
            log.verifier_keys(),
            parents=seals_in(place.home.path / "models" / "tiny"),
            history=LogHistory(log),
        )
        assert report.is_good and len(report.chain) == 2
        changed = {block.name for block in report.blocks if block.changed}
        assert changed == {name for name, was in zip(names, reached.tolist(), strict=True) if was}


def test_what_would_hurt_more_than_is_allowed_is_not_done(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    file = order(place, "strict.json", "--damage-max", 0)
    said = carry_out(place, file, capsys)
    assert said["directory"] is None and said["steps"] == 0 and said["steps_undone"] == 1
    assert said["ending"] == "damage" and said["loss_after"] == pytest.approx(said["loss_before"])


def test_an_order_for_somebody_elses_key_or_with_no_numbers_is_refused(place: Place) -> None:
    with pytest.raises(LicetError, match="no weight"):
        order(place, "odd.json", "--weight", "surface")
    with pytest.raises(LicetError, match="from -1 to 0"):
        order(place, "odd.json", "--weight", "surface=0.5")
    assert not (place.folder / "odd.json").exists()
