"""Do the flags find what is memorized? Planted duplicates and canaries, precision and recall at the default thresholds.

    python -m benchmarks.memorization                     three seeds on the descriptions of the installed distributions
    python -m benchmarks.memorization --corpus DIR        on the .txt files of a folder
    python -m benchmarks.memorization --seeds 1 --steps 300

A small Llama first forms on the corpus (`--formed` steps). Then, among text that it sees for the first time, some texts
of the corpus and some random strings come back 16 or 64 times. Entropy bands are recorded as a trainer does it: under
compression before there is a model, and under the checkpoint after forming. A planted text is *recited* if, at the end,
the model's first choice is right for nine tokens of ten. JSON lines on stdout, a table on stderr at the end.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import string
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks import report
from licet.policies.bands import Architecture, resolve
from licet.policies.cli.distributions import installed_distributions
from licet.policies.policy import Policy
from licet.policies.schema import Memorization
from licet.train import Gate
from licet.train.blocks import describe
from licet.train.data.entropy import entropy_band, under_compression, under_model
from licet.train.optimizer import GuardedOptimizer
from licet.train.watch.memorization import Flag, Watch, alignments, second_look

_T = 64
_BATCH = 16
_VOCABULARY = 2048
_RATE = 2e-3
_OPENING = "<s>"
_PLANTS = {"duplicate x16": 8, "duplicate x64": 2, "canary x16": 6, "canary x64": 2}
_STUDENT_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, slots=True)
class Text:
    """One text of `_T` tokens, and what it is: natural, or the kind of a plant."""

    key: int
    kind: str
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Event:
    """One text at one place in the run, with the flags that it got and those that held at a second look."""

    text: Text
    step: int
    flags: tuple[Flag, ...]
    held: tuple[Flag, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--formed", type=int, default=200, help="steps before anything is planted")
    parser.add_argument("--corpus", type=Path, help="a folder of .txt files")
    options = parser.parse_args()
    if options.seeds < 1 or options.formed < 1 or (options.steps - options.formed) * _BATCH < _planted() * 2:
        parser.error("give a seed at least, and steps after --formed for twice as many texts as are planted")
    torch.set_num_threads(1)
    rows = [report.emit("environment", **report.environment(), torch=torch.__version__)]
    tokenizer, texts = _corpus(options.corpus)
    per_seed = [_measure(tokenizer, texts, seed, options.steps, options.formed) for seed in range(options.seeds)]
    for name in per_seed[0]:
        values = [facts[name] for facts in per_seed if not math.isnan(facts[name])]
        rows.append(report.emit(name, **_interval(values)))
    rows.append(_cost())
    report.print_table(rows)


# ---- what is read, and when -----------------------------------------------------------------------------------------


def _planted() -> int:
    return sum(count * int(kind.rpartition("x")[2]) for kind, count in _PLANTS.items())


def _corpus(folder: Path | None) -> tuple[PreTrainedTokenizerFast, list[str]]:
    if folder is None:
        texts = [found.description.decode(errors="replace") for found in installed_distributions()]
    else:
        texts = [path.read_text(errors="replace") for path in sorted(folder.glob("*.txt"))]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=[_OPENING], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=_OPENING), texts


def _chunks(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Stretches of `_T` tokens, each different text once."""
    found: dict[tuple[int, ...], None] = {}
    for text in texts:
        ids = tokenizer(text, verbose=False)["input_ids"]
        found.update(dict.fromkeys(tuple(ids[i : i + _T]) for i in range(0, len(ids) - _T, _T)))
    return list(found)


def _canary(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> tuple[int, ...]:
    drawn = "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(4 * _T))
    return tuple(tokenizer(drawn)["input_ids"][:_T])


def _schedule(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], rng: random.Random, steps: int, formed: int
) -> tuple[list[Text], list[Text]]:
    """The texts in the order in which they are read, `_BATCH` in a step; and those that were planted."""
    chunks = _chunks(tokenizer, texts)
    rng.shuffle(chunks)
    plants = []
    for kind, count in _PLANTS.items():
        for _ in range(count):
            ids = _canary(tokenizer, rng) if kind.startswith("canary") else chunks.pop()
            plants.append(Text(-1 - len(plants), kind, ids, tokenizer.decode(ids)))
    again = [plant for plant in plants for _ in range(int(plant.kind.rpartition("x")[2]))]
    natural = [Text(i, "natural", ids, tokenizer.decode(ids)) for i, ids in enumerate(chunks)]
    needed = steps * _BATCH - len(again)
    if len(natural) * 2 < needed:
        raise SystemExit(f"The corpus has {len(natural)} texts; {needed} steps of reading need half as many.")
    natural = (natural * 2)[:needed]
    early, late = natural[: formed * _BATCH], natural[formed * _BATCH :] + again
    rng.shuffle(late)
    return [*early, *late], plants


# ---- one run --------------------------------------------------------------------------------------------------------


def _measure(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], seed: int, steps: int, formed: int
) -> dict[str, float]:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    reading, plants = _schedule(tokenizer, texts, rng, steps, formed)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=_T + 1,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    events = list(_train(model, tokenizer, reading, steps, formed))
    recited = {plant.key: _is_recited(model, plant) for plant in plants}
    facts = _judged([event for event in events if event.step >= formed], plants, recited)
    early = [event for event in events if event.step < formed]
    facts["false flags per 1000 while forming"] = 1000 * sum(bool(event.flags) for event in early) / len(early)
    report.emit("seed", number=seed, texts=len(reading), **facts)
    return facts


def _train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, reading: Sequence[Text], steps: int, formed: int
) -> Iterator[Event]:
    policy = Policy.read_default("open-source-code")
    architecture, prefixes = describe(model)
    gate = Gate(model, prefixes)
    adamw = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    optimizer = GuardedOptimizer(adamw, gate, clip_norm=1.0)
    watch = Watch(Memorization(), resolve(policy, architecture), policy.entropy_names)
    bands = _bands(policy, reading[: formed * _BATCH], None, tokenizer)
    weights = torch.ones(_BATCH, len(architecture.blocks))
    for step in range(steps):
        if step == formed:
            bands |= _bands(policy, reading[formed * _BATCH :], model, tokenizer)
        batch = reading[step * _BATCH : (step + 1) * _BATCH]
        ids_BT = torch.tensor([[0, *text.ids] for text in batch])
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / 30)
        with gate(weights):
            (_losses(model, ids_BT) / _BATCH).sum().backward()
        assert gate.norms is not None
        flags: dict[Any, list[Flag]] = defaultdict(list)
        for flag in watch.observe(step, range(_BATCH), [bands[text.key] for text in batch], gate.norms.numpy()):
            flags[flag.example].append(flag)
        for row, text in enumerate(batch):
            yield Event(text, step, tuple(flags[row]), _held(flags[row], model, gate, optimizer, ids_BT[row : row + 1]))
        optimizer.step(authorities=dict.fromkeys(gate.block_names, ()))


def _held(
    flags: Sequence[Flag], model: LlamaForCausalLM, gate: Gate, optimizer: GuardedOptimizer, ids_1T: torch.Tensor
) -> tuple[Flag, ...]:
    if not any(flag.side == "above" for flag in flags):
        return tuple(flags)
    aligned = alignments(model, lambda: _losses(model, ids_1T)[0], gate, optimizer)
    return tuple(flag for flag in flags if second_look(flag, aligned) is not None)


def _bands(
    policy: Policy, reading: Sequence[Text], model: LlamaForCausalLM | None, tokenizer: PreTrainedTokenizerFast
) -> dict[int, str]:
    """The entropy band of each text, as it is recorded when the text is admitted."""
    known = {text.key: text.text for text in reading}
    texts = list(known.values())
    if model is None:
        measured = tuple(under_compression(text) for text in texts)
    else:
        measured = under_model(model, tokenizer, texts)
    found = (entropy_band(policy, one.bits_per_byte).name for one in measured)
    return dict(zip(known, found, strict=True))


def _losses(model: LlamaForCausalLM, ids_BT: torch.Tensor) -> torch.Tensor:
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1]
    return cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none").mean(1)


def _is_recited(model: LlamaForCausalLM, text: Text) -> bool:
    ids_1T = torch.tensor([[0, *text.ids]])
    with torch.no_grad():
        first_T = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].argmax(-1)
    return float((first_T == ids_1T[0, 1:]).float().mean()) >= 0.9


# ---- what it comes to -----------------------------------------------------------------------------------------------


def _judged(events: Sequence[Event], plants: Sequence[Text], recited: dict[int, bool]) -> dict[str, float]:
    facts: dict[str, float] = {}
    natural = sum(event.text.kind == "natural" for event in events)
    for side in ("above", "below"):
        flagged = [event for event in events if any(flag.side == side for flag in event.flags)]
        held = [event for event in flagged if any(flag.side == side for flag in event.held)]
        false = [event for event in flagged if event.text.kind == "natural"]
        facts[f"{side}: precision of flags"] = _share(len(flagged) - len(false), len(flagged))
        facts[f"{side}: false flags per 1000 natural"] = 1000 * len(false) / natural
        if side == "above":
            kept = sum(event.text.kind == "natural" for event in held)
            facts["above: precision after a second look"] = _share(len(held) - kept, len(held))
        keys = {event.text.key for event in flagged}
        for kind in _PLANTS:
            own = [plant for plant in plants if plant.kind == kind]
            facts[f"{side}: recall of {kind}"] = _share(sum(plant.key in keys for plant in own), len(own))
    keys = {event.text.key for event in events if event.flags}
    wanted = [plant for plant in plants if recited[plant.key]]
    facts["recited in the end"] = len(wanted) / len(plants)
    facts["either: recall of what is recited"] = _share(sum(plant.key in keys for plant in wanted), len(wanted))
    for kind in _PLANTS:
        facts[f"either: occurrences before the first flag, {kind}"] = _first_flag(events, kind)
    return facts


def _first_flag(events: Sequence[Event], kind: str) -> float:
    """The median over a kind's texts that were flagged at all."""
    seen: dict[int, int] = defaultdict(int)
    found: dict[int, int] = {}
    for event in events:
        if event.text.kind == kind:
            seen[event.text.key] += 1
            if event.flags:
                found.setdefault(event.text.key, seen[event.text.key])
    return float(statistics.median(found.values())) if found else math.nan


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _interval(values: Sequence[float]) -> dict[str, Any]:
    """The mean, and half of its 95 % interval by Student's distribution."""
    if not values:
        return {"mean": None, "seeds": 0}
    mean = statistics.fmean(values)
    if not 2 <= len(values) <= len(_STUDENT_975) + 1:
        return {"mean": mean, "seeds": len(values)}
    half = _STUDENT_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "interval_95": half, "seeds": len(values)}


def _cost() -> dict[str, Any]:
    """What a step pays for being watched: 64 examples, 34 blocks."""
    policy = Policy.read_default("open-source-code")
    layout = resolve(policy, Architecture.uniform(32, embedding=1_000_000, layer=1_000_000, head=1_000_000))
    watch = Watch(Memorization(), layout, policy.entropy_names)
    norms = np.exp(np.random.default_rng(0).normal(size=(200, 64, 34)))
    bands = [policy.entropy_names[i % len(policy.entropy_names)] for i in range(64)]
    times = []
    for step in range(200):
        started = time.perf_counter()
        watch.observe(step, range(64), bands, norms[step])
        times.append(time.perf_counter() - started)
    return report.emit("observe, 64 examples x 34 blocks", **report.quantiles_ms(times[20:]))


if __name__ == "__main__":
    main()
