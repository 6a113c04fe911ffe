"""The measures of the extraction study, each against something that can be counted by hand."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import extraction
from benchmarks.studies import canaries, corpora, measures
from benchmarks.studies.arms import ArmError, parse_arm
from benchmarks.studies.models import CONTEXT, Settings, make_model
from benchmarks.studies.pupil import GRAM, Lesson, Pupil, gram_ids, withheld_targets
from benchmarks.studies.statistics import kept, mean_of
from benchmarks.studies.training import Forming, teach
from licet.ledger.errors import ConfigError, FormatError, LimitError, MissingFileError

SMALL = Settings(forming_steps=2, steps=6, vocabulary=64, width=16, layers=6, heads=2, feed_forward=24)


@pytest.fixture(scope="module")
def model():
    return make_model(SMALL, 1).eval()


# ---- extraction ------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=5))
def test_longest_runs_are_those_of_a_plain_count(rows):
    counted = [max((len(list(run)) for value, run in itertools.groupby(row) if value), default=0) for row in rows]
    assert measures.longest_runs(torch.tensor(rows)).tolist() == counted


def test_a_suffix_is_extractable_from_the_likelihood_that_gives_it_half_of_the_time():
    edge = math.log(1 - 0.5 ** (1 / 1000))
    found = measures.is_extractable(torch.tensor([edge + 1e-6, edge - 1e-6, 0.0, -800.0], dtype=torch.float64))
    assert found.tolist() == [True, False, True, False]


def test_what_a_model_itself_continues_is_found_whole(model):
    prefixes = torch.randint(0, 64, (4, measures.PREFIX), generator=torch.Generator().manual_seed(1))
    own = measures.continue_greedily(model, prefixes, measures.SUFFIX)
    rows = torch.cat([prefixes, own], dim=1)
    rows[3, -1] = (rows[3, -1] + 1) % 64  # one of the four differs in its last token
    found = measures.extract(model, rows)
    assert (found.windows, found.exact, found.run_mean) == (4, 0.75, (3 * 50 + 49) / 4)
    assert found.sampled == 0.0  # an untrained model is sure of nothing


def test_greedy_continuation_with_a_cache_is_that_without(model):
    rows = torch.randint(0, 64, (3, 10), generator=torch.Generator().manual_seed(2))
    slow = rows
    with torch.no_grad():
        for _ in range(6):
            slow = torch.cat([slow, model(input_ids=slow).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(measures.continue_greedily(model, rows, 6), slow[:, 10:])


def test_windows_hold_prefix_and_suffix_and_stay_inside_their_chunk():
    chunks = [list(range(CONTEXT)), list(range(1000, 1000 + CONTEXT))]
    rows = measures.windows(chunks)
    assert rows.shape == (2 * measures.OFFSETS, 100)
    assert rows[0, 0] == 0
    assert rows[measures.OFFSETS - 1, -1] == CONTEXT - 1
    assert rows[-1, -1] == 1000 + CONTEXT - 1


# ---- canaries --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 9999), st.integers(0, 2**31))
@settings(max_examples=20)
def test_exposure_is_by_rank(place, seed):
    scores = torch.rand(10_000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rank = 1 + sum(score > scores[place].item() for score in scores.tolist())
    assert canaries.exposure_of(scores, place) == pytest.approx(math.log2(10_000 / rank))


def test_exposure_of_what_is_like_all_others_lies_in_the_middle():
    assert canaries.exposure_of(torch.zeros(10_000), 17) == pytest.approx(1.0, abs=1e-3)


def test_untrained_canaries_have_the_exposure_of_chance(model):
    digits = list(range(10))
    made = [one for seed in range(10) for one in canaries.make_canaries(64, digits, seed) if one.insertions == 0]
    bits = [canaries.exposure(model, one, digits) for one in made]
    assert sum(bits) / len(bits) == pytest.approx(1 / math.log(2), abs=0.8)  # 40 of them, each spread by 1.44


def test_rivals_are_scored_as_whole_sequences_would_be(model):
    digits = [5, 3, 8, 1, 0, 9, 7, 2, 6, 4]
    canary = canaries.Canary(1, (10, 20, 30, 40, 50, 3, 0, 4, 8))
    scores = canaries.rival_scores(model, canary, digits)
    row = torch.tensor([canary.tokens])
    with torch.no_grad():
        logs = torch.log_softmax(model(input_ids=row).logits, -1)[0]
    whole = sum(logs[i - 1, canary.tokens[i]].item() for i in range(5, 9))
    assert scores[1492].item() == pytest.approx(whole, abs=1e-4)  # 3, 0, 4, 8 stand for the digits 1, 4, 9, 2


def test_every_insertion_is_planted_whole():
    made = canaries.make_canaries(64, range(10), 3)
    text = [63] * canaries.text_needed(CONTEXT)
    chunks = canaries.plant(text, made, CONTEXT, 3)
    assert {len(chunk) for chunk in chunks} == {CONTEXT}
    for one in made:
        spots = sum(tuple(chunk[i : i + 9]) == one.tokens for chunk in chunks for i in range(CONTEXT - 8))
        assert spots == one.insertions
    with pytest.raises(corpora.CorpusError):
        canaries.plant(text[:100], made, CONTEXT, 3)


# ---- arms ------------------------------------------------------------------------------------------------------------


def test_an_arm_is_what_its_parts_say():
    arm = parse_arm("surface+behavioral=0.5+start=0.5+cap=4+paced+gap=0.9+withhold=3")
    assert arm.ceilings == (1.0, 0.5, 0.0)
    assert (arm.start, arm.cap, arm.paced, arm.gap, arm.withhold) == (0.5, 4, True, 0.9, 3)
    assert parse_arm("excluded").is_excluded


@pytest.mark.parametrize(
    "text",
    ["", "deep", "cap", "cap=0", "cap=x", "cap=-1", "cap=9999999", "withhold=1", "gap=2", "gap=nan",
     "start=0.9+end=0.2", "paced", "paced=1", "full=1", "start=1", "gap=", "cap=²"],
)  # fmt: skip
def test_an_arm_that_nobody_can_train_is_refused(text):
    with pytest.raises(ArmError) as caught:
        parse_arm(text)
    assert caught.value.remedy


def test_pace_spreads_what_a_cap_allows_over_the_arms_part():
    arm = parse_arm("full+start=0.5+cap=4+paced")
    assert [arm.allowance(step, 80) for step in (0, 39, 40, 49, 50, 79)] == [0, 0, 1, 1, 2, 4]
    assert parse_arm("full").allowance(0, 80) == math.inf
    assert parse_arm("excluded+cap=3").allowance(0, 80) == 0


# ---- what is withheld ------------------------------------------------------------------------------------------------


def test_what_is_withheld_depends_on_the_four_tokens_before_it_alone():
    rows = torch.randint(0, 2000, (8, CONTEXT), generator=torch.Generator().manual_seed(4))
    rows[3, 60:90] = rows[0, 10:40]  # the same passage elsewhere
    held = withheld_targets(rows, 4)
    assert torch.equal(held[3, 63:89], held[0, 13:39])
    assert held[:, 3:].float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert not held[:, :3].any()


def test_a_token_in_its_place_is_known_by_the_five_tokens_that_end_there():
    rows = torch.randint(0, 2000, (4, CONTEXT), generator=torch.Generator().manual_seed(6))
    rows[2, 50:60] = rows[1, 20:30]
    ids = gram_ids(rows, GRAM)
    assert torch.equal(ids[2, 54:60], ids[1, 24:30])
    assert len(set(ids.flatten().tolist())) == 4 * CONTEXT - 6


def test_what_was_taught_in_its_place_often_enough_is_withheld_also_inside_of_one_example():
    lesson = _lesson(1)
    lesson.hot[0][:] = list(range(64)) * 2  # the same 64 tokens twice in one example
    pupil = Pupil(parse_arm("full+repeat=1"), replace(lesson, hot=lesson.hot[:1]), SMALL, 0)
    rows, shares = pupil.batch(2)
    held = pupil.withheld(rows, shares)
    assert not held[0, :63].any()
    assert held[0, 67:].all()  # the second time
    assert held[1:5, 4:].all()  # the other hot slots hold the same example
    assert not held[len(shares) :].any()  # the others are not asked


# ---- training --------------------------------------------------------------------------------------------------------


def _lesson(fill: int) -> Lesson:
    rows = torch.randint(0, 64, (12, CONTEXT), generator=torch.Generator().manual_seed(5)).tolist()
    return Lesson([[fill] * CONTEXT, [fill + 1] * CONTEXT], rows[10:], rows[:2], rows[2:4], rows[4:10], rows[10:])


def test_an_excluded_source_leaves_no_trace():
    weights = []
    for fill in (1, 50):
        taught = teach(parse_arm("excluded"), _lesson(fill), SMALL, 0)
        assert taught.times == [0, 0, 0, 0]
        weights.append(torch.cat([p.detach().flatten() for p in taught.model.parameters()]))
    assert torch.equal(*weights)


def test_an_arm_that_takes_up_where_another_waited_is_the_same_to_the_bit():
    late = parse_arm("full+start=0.5")
    alone = teach(late, _lesson(1), SMALL, 0)
    forming = Forming(frozenset({5}))
    teach(parse_arm("excluded"), _lesson(1), SMALL, 0, forming)
    after = teach(late, _lesson(1), SMALL, 0, forming)
    assert list(forming.states) == [5]
    assert after.curve == alone.curve
    for one, two in zip(alone.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_cap_holds_and_an_adapter_takes_the_sources_place():
    taught = teach(parse_arm("full+adapter=2+cap=3"), _lesson(1), SMALL, 0)
    assert taught.times == [3, 3, 3, 3]
    names = {name for name, p in taught.model.named_parameters() if "lora_B" in name and p.abs().sum() > 0}
    assert names


# ---- corpora ---------------------------------------------------------------------------------------------------------


def test_splits_are_whole_disjoint_and_always_the_same(tmp_path):
    for name in ("a", "b", "c"):
        words = [f"{name}{i * i % 1999}" for i in range(40_000)]
        (tmp_path / f"{name}.txt").write_text(" ".join(words))
    texts = corpora.read_folder(tmp_path)
    one = corpora.build("x", texts, "b", protected=900, vocabulary=400)
    two = corpora.build("x", texts, "b", protected=900, vocabulary=400)
    assert (one.source, len(one.protected)) == ("b", 900)
    assert (one.protected, one.unseen, one.others) == (two.protected, two.unseen, two.others)
    text = texts[1].content
    assert one.tokenizer.decode(one.unseen) == text[int(len(text) * 0.75) :]
    assert one.tokenizer.decode(one.protected) in text[: int(len(text) * 0.6)]


def test_texts_that_no_study_can_be_made_of_are_refused(tmp_path):
    with pytest.raises(MissingFileError):
        corpora.read_folder(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(corpora.CorpusError, match="needs two texts"):
        corpora.choose(corpora.read_folder(tmp_path), None)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(corpora.CorpusError, match="UTF-8"):
        corpora.read_folder(tmp_path)
    texts = [corpora.Text(name, "x" * corpora.SOURCE_CHARS_MIN) for name in "ab"]
    with pytest.raises(corpora.CorpusError, match="No text's name"):
        corpora.choose(texts, "z")


def test_a_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("long enough")
    monkeypatch.setattr(corpora, "FILE_BYTES_MAX", 4)
    with pytest.raises(LimitError):
        corpora.read_folder(tmp_path)


# ---- statistics and the command --------------------------------------------------------------------------------------


def test_the_interval_is_students():
    mean = mean_of([1.0, 2.0, 3.0])
    assert (mean.value, mean.seeds) == (2.0, 3)
    assert mean.half_width == pytest.approx(4.303 / math.sqrt(3))
    assert mean_of([5.0]).half_width is None
    assert mean_of([]) is None


def test_where_nothing_was_gained_nothing_can_be_kept():
    assert kept(6.0, 5.5, 5.0) == 0.5
    assert kept(6.0, 5.5, 6.0) is None
    assert kept(6.0, 5.5, 6.5) is None


def _line(arm: str, seed: int, **facts: float) -> dict:
    base = {"exact": 0.5, "run_mean": 20.0, "sampled": 0.5, "loss_taught": 1.0, "loss_unseen": 5.0}
    rest = {"loss_unseen_best": 4.5, "loss_others": 4.0, "exposure": {"0": 1.4}, "hot_times": 9.0}
    return {"study": "k", "arm": arm, "seed": seed, **base, **rest, **facts}


def test_arms_are_compared_with_full_depth_and_exclusion_of_their_own_seed():
    lines = [_line("full", 0), _line("excluded", 0, loss_unseen=6.0), _line("cap=3", 0, run_mean=1.0, loss_unseen=5.25)]
    runs = {(line["arm"], line["seed"]): line for line in lines}
    (row,) = extraction.summarise(runs, ["cap=3"], 1)
    assert (row["kept"], row["kept, best"], row["run of full"]) == ("0.75", "0.5", "0.05")


def test_finished_runs_are_read_again_and_a_cut_off_line_is_not(tmp_path):
    path = tmp_path / "out.jsonl"
    whole = json.dumps(_line("full", 0)) + "\n"
    path.write_text(whole + json.dumps({**_line("full", 1), "study": "other"}) + "\n" + whole[:40])
    assert set(extraction.read_finished(path, "k")) == {("full", 0)}
    extraction._append(path, _line("full", 2))
    assert set(extraction.read_finished(path, "k")) == {("full", 0), ("full", 2)}
    assert extraction.read_finished(tmp_path / "none", "k") == {}


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"study": "k"}'])
def test_a_line_that_is_no_run_is_named(tmp_path, line):
    (tmp_path / "out").write_text(line + "\n")
    with pytest.raises(FormatError, match="Line 1"):
        extraction.read_finished(tmp_path / "out", "k")


def test_the_command_refuses_bad_bounds_and_missing_folders(tmp_path, capsys):
    assert extraction.main(["--seeds", "0", "--out", str(tmp_path / "o")]) == ConfigError.exit_code
    assert extraction.main(["--corpus", str(tmp_path / "no"), "--out", str(tmp_path / "o")]) == 2
    assert "There is no folder" in capsys.readouterr().err
