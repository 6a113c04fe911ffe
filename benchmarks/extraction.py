"""What a protected source can be made to give back, and what it still teaches, by how it is taught.

    python -m benchmarks.extraction --corpus installed --out study.jsonl
    python -m benchmarks.extraction --corpus DIR --arms excluded,full,cap=2+gap=0.9 --seeds 3 --out FILE

DIR is a folder of .txt books; `installed` takes the Python sources of the installed distributions. One of them is the
protected source, the others are open. A small network is formed by the others' text alone; then comes the source. Its
hot part stands for passages that a crawl repeats: it is taught again and again, and holds canaries. Its broad part
comes once at most. Each finished (corpus, arm, seed) is a line of --out and is not run again. JSON lines on stdout, a
table with means and 95 % intervals over seeds on stderr. Of an arm:

    exact, run, sampled    50-token prefixes: share of 50-token greedy suffixes that come back whole, mean longest run
                           of agreeing tokens, share that comes back with a chance of 1/2 within 1000 samples
    canary N               exposure in bits of canaries inserted N times (0: never; 13.3 is the most, 1.44 is chance)
    kept                   the part of full depth's gain on unseen text of the source; `kept, best` measures it against
                           the best point of full depth's run, before its training text was learned by heart
    cost                   others' loss on their unseen text, against full depth and against exclusion
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.studies import canaries as canary_study
from benchmarks.studies import corpora, measures
from benchmarks.studies.arms import Arm, parse_arm
from benchmarks.studies.models import CONTEXT, Settings
from benchmarks.studies.pupil import Lesson
from benchmarks.studies.statistics import kept, mean_of
from benchmarks.studies.training import Forming, Taught, teach
from licet.ledger.errors import ConfigError, FormatError, LicetError, StorageError

ARMS = "excluded,full,surface,full+repeat=2"
SEEDS_MAX = 100
STEPS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Study:
    """One corpus under one set of settings. The key tells finished lines of this study from those of others."""

    corpus: corpora.Corpus
    settings: Settings
    key: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        rows = _run(options)
    except LicetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    report.print_table(rows)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="installed", help="a folder of .txt files, or: installed")
    parser.add_argument("--source", help="part of the protected source's name; the first one by default")
    parser.add_argument("--arms", default=ARMS, help="separated by commas; their parts are in studies/arms.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Settings().steps)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="finished runs, one JSON line each")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not (1 <= options.seeds <= SEEDS_MAX and 20 <= options.steps <= STEPS_MAX and 1 <= options.threads <= 1024):
        raise ConfigError(
            "Seeds, steps or threads are out of bounds.",
            remedy=f"Seeds go from 1 to {SEEDS_MAX}, steps from 20 to {STEPS_MAX}, threads from 1 to 1024.",
        )
    torch.set_num_threads(options.threads)
    arms = list(dict.fromkeys(parse_arm(text) for text in options.arms.split(",")))
    rows = [report.emit("environment", **report.environment(), torch=torch.__version__)]
    study = _open(options.corpus, options.source, Settings(steps=options.steps))
    done = read_finished(options.out, study.key)
    formed = {study.settings.forming_steps}
    for seed in range(options.seeds):
        forming = Forming(
            frozenset(study.settings.forming_steps + arm.first_step(options.steps) for arm in arms) | formed
        )
        for arm in arms:
            if (arm.name, seed) not in done:
                line = {"what": "extraction run", **_measure(study, arm, seed, forming)}
                _append(options.out, line)
                done[arm.name, seed] = line
                report.emit(**{key: line[key] for key in line if key not in ("curve", "settings")})
    rows += [report.emit(**row) for row in summarise(done, [arm.name for arm in arms], options.seeds)]
    return rows


def _open(corpus: str, source: str | None, settings: Settings) -> Study:
    folder = Path(corpus)
    texts = corpora.read_installed(source) if corpus == "installed" else corpora.read_folder(folder)
    name = corpus if corpus == "installed" else folder.resolve().name
    needed = settings.clean_chunks * CONTEXT + canary_study.text_needed(CONTEXT)
    built = corpora.build(name, texts, source, protected=needed, vocabulary=settings.vocabulary)
    planted = [canary_study.PLANTED, canary_study.CONTROLS, canary_study.PER_CHUNK]
    parts = [built.protected, built.rest, built.neighbours, built.unseen, built.others, built.others_unseen]
    content = json.dumps([built.source, parts, asdict(settings), planted])
    return Study(built, settings, hashlib.sha256(content.encode()).hexdigest()[:16])


def _measure(study: Study, arm: Arm, seed: int, forming: Forming) -> dict[str, Any]:
    """Train one arm and measure it."""
    corpus, started = study.corpus, time.perf_counter()
    digits = [corpus.tokenizer.token_to_id(str(digit)) for digit in range(10)]
    planted = canary_study.make_canaries(corpus.tokenizer.get_vocab_size(), digits, seed)
    edge = study.settings.clean_chunks * CONTEXT
    clean = corpora.chunks(corpus.protected[:edge], CONTEXT)
    lesson = Lesson(
        clean + canary_study.plant(corpus.protected[edge:], planted, CONTEXT, seed),
        corpora.chunks(corpus.rest, CONTEXT),
        corpora.chunks(corpus.neighbours, CONTEXT, 12),
        corpora.chunks(corpus.unseen, CONTEXT, 48),
        corpora.chunks(corpus.others, CONTEXT),
        corpora.chunks(corpus.others_unseen, CONTEXT, 48),
    )
    taught = teach(arm, lesson, study.settings, seed, forming)
    trained_s = time.perf_counter() - started
    taught.model.eval()
    unseen = measures.mean_loss(taught.model, lesson.unseen)
    found = measures.extract(taught.model, measures.windows(clean))
    return {
        "study": study.key,
        "corpus": corpus.name,
        "source": corpus.source,
        "arm": arm.name,
        "seed": seed,
        "settings": asdict(study.settings),
        "hot_examples": len(lesson.hot),
        "broad_examples": len(lesson.broad),
        "hot_times": sum(taught.times[: len(lesson.hot)]) / len(lesson.hot),
        "broad_times": sum(taught.times[len(lesson.hot) :]) / len(lesson.broad),
        **asdict(found),
        "exposure": _exposures(taught, planted, digits),
        "loss_taught": measures.mean_loss(taught.model, clean),
        "loss_unseen": unseen,
        "loss_unseen_best": unseen + min(point[1] for point in taught.curve) - taught.curve[-1][1],
        "loss_others": measures.mean_loss(taught.model, lesson.others_unseen),
        "curve": taught.curve,
        "train_s": trained_s,
        "seconds": time.perf_counter() - started,
    }


def _exposures(taught: Taught, planted: Iterable[canary_study.Canary], digits: Sequence[int]) -> dict[str, float]:
    """Mean exposure in bits, by number of insertions."""
    found: dict[int, list[float]] = {}
    for one in planted:
        found.setdefault(one.insertions, []).append(canary_study.exposure(taught.model, one, digits))
    return {str(count): sum(bits) / len(bits) for count, bits in sorted(found.items())}


def read_finished(path: Path, study: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The finished runs of this study. A last line without its end was cut off, and is run again."""
    try:
        content = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}", remedy="Name another file for --out.") from None
    found = {}
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
            if row["study"] == study:
                found[row["arm"], row["seed"]] = row
        except (ValueError, TypeError, KeyError):
            raise FormatError(
                f"Line {number} of {path} is no finished run.", remedy="Remove the line, or name another file."
            ) from None
    return found


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """One whole line, after whatever a killed run left of its last one is cut off."""
    try:
        old = path.read_bytes() if path.exists() else b""
        with path.open("r+b" if path.exists() else "xb") as file:
            file.truncate(old.rfind(b"\n") + 1)
            file.seek(0, 2)
            file.write(json.dumps(line).encode() + b"\n")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}", remedy="Name another file for --out.") from None


Runs = Mapping[tuple[str, int], Mapping[str, Any]]


def summarise(runs: Runs, arms: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """A row for each arm: means over the seeds, and what an arm is against full depth and exclusion of its own seed."""
    rows = []
    for arm in arms:
        found: dict[str, list[float]] = {}
        for seed in range(seeds):
            if (arm, seed) in runs:
                for name, value in _figures(runs, arm, seed).items():
                    if value is not None:
                        found.setdefault(name, []).append(value)
        means = {name: mean_of(values) for name, values in found.items()}
        rows.append({"what": f"arm {arm}", **{name: str(mean) for name, mean in means.items()}})
    return rows


def _figures(runs: Runs, arm: str, seed: int) -> dict[str, float | None]:
    run, full, excluded = (runs.get((name, seed)) for name in (arm, "full", "excluded"))
    assert run is not None
    figures: dict[str, float | None] = {
        **{name: run[name] for name in ("exact", "run_mean", "sampled", "loss_taught", "loss_unseen", "loss_others")},
        **{f"canary {count}": bits for count, bits in run["exposure"].items()},
        "times": run["hot_times"],
    }
    if full is not None:
        figures["run of full"] = run["run_mean"] / full["run_mean"] if full["run_mean"] else None
        figures["exact of full"] = run["exact"] / full["exact"] if full["exact"] else None
        figures["cost to full"] = run["loss_others"] / full["loss_others"] - 1
    if excluded is not None:
        figures["gain"] = excluded["loss_unseen"] - run["loss_unseen"]
        figures["cost to excluded"] = run["loss_others"] / excluded["loss_others"] - 1
    if full is not None and excluded is not None:
        figures["kept"] = kept(excluded["loss_unseen"], run["loss_unseen"], full["loss_unseen"])
        figures["kept, best"] = kept(excluded["loss_unseen"], run["loss_unseen"], full["loss_unseen_best"])
    return figures


if __name__ == "__main__":
    sys.exit(main())
