"""Questions to a log: what is in it, what did a source shape, who shaped some blocks, what changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

import typer

from licet.ledger import codec, corpus, records, terminal
from licet.ledger.ancestry import Ancestry
from licet.ledger.cli.options import AsJson, HomeOption, LogArgument, log_path, read_log
from licet.ledger.errors import ConfigError
from licet.ledger.exposure import BlockExposure
from licet.ledger.reader import LogReader
from licet.ledger.records import GradientApplied, Opaque, Record

StepsOption = Annotated[
    str | None, typer.Option("--steps", metavar="FIRST:LAST", help="Only these steps, both included.")
]
RunOption = Annotated[int | None, typer.Option("--run", help="The entry that starts the run. Default: the latest.")]
_NAMED_MAX = 8


def info(log: LogArgument, home: HomeOption = None, as_json: AsJson = False) -> None:
    """What a log is and how far it reaches."""
    with read_log(log, home) as view:
        signed = max((size for size, _ in view.checkpoint_notes()), default=0)
        facts = {
            "origin": view.origin,
            "entries": view.size,
            "root": view.head.root,
            "signed_up_to": signed,
            "keys": [str(key) for key in view.verifier_keys()],
            "directory": str(view.directory.path),
        }
    if as_json:
        terminal.show_json(facts)
        return
    terminal.show_table(("what", "value"), [(name, terminal.text(value)) for name, value in facts.items()])


def events(
    log: LogArgument,
    kind: Annotated[str | None, typer.Option(help="Only records of this kind, as ExampleAdmitted.")] = None,
    example: Annotated[str | None, typer.Option(help="Only the training events of this example (hexadecimal).")] = None,
    start: Annotated[int, typer.Option("--from", help="The first entry to show.")] = 0,
    limit: Annotated[int | None, typer.Option(help="How many to show.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Print entries, one a line."""
    with read_log(log, home) as view:
        for index, record in islice(_chosen(view, kind, example, start, follow=follow), limit):
            name = type(record).__name__
            if as_json:
                terminal.show_json({"index": index, "kind": name, "record": record})
            else:
                terminal.show(f"{index}  {name}  {terminal.text(record)}")


def _chosen(
    view: LogReader, kind: str | None, example: str | None, start: int, *, follow: bool
) -> Iterator[tuple[int, Record | Opaque]]:
    if example is not None:
        for index in view.exposure.events_of(_hex(example, "an example id")):
            yield index, view.record(index)
        return
    known = {cls.__name__: cls for cls in records.BY_TAG.values()}
    if kind is not None and kind not in known:
        raise ConfigError(f"There are no records of kind {kind}.", remedy=f"The kinds are: {', '.join(known)}.")
    if kind is not None and kind != GradientApplied.__name__ and not follow:
        yield from ((index, record) for index, record in view.all_of(known[kind]) if index >= start)
        return
    for index, entry in view.follow(start) if follow else view.entries(start):
        if kind is None or entry[0] == known[kind].KIND:
            yield index, codec.decode(entry)


def forward(
    log: LogArgument,
    source: Annotated[str | None, typer.Option(help="A source's id.")] = None,
    attestation: Annotated[str | None, typer.Option(help="An attestation (hexadecimal).")] = None,
    example: Annotated[str | None, typer.Option(help="An example (hexadecimal).")] = None,
    steps: StepsOption = None,
    run: RunOption = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """What a source, an attestation or an example shaped: recorded exposure, block by block.

    A block that came from elsewhere is marked: what shaped it before is unknown.
    """
    if sum(value is not None for value in (source, attestation, example)) != 1:
        raise ConfigError("Ask about one thing.", remedy="Pass one of --source, --attestation, --example.")
    with read_log(log, home) as view:
        if example is not None:
            rows = view.exposure.forward_example(_hex(example, "an example id"), run=run)
        else:
            given = None if attestation is None else _hex(attestation, "an attestation")
            rows = view.exposure.forward(source=source, attestation=given, run=run, steps=_steps(steps))
        past = view.exposure.ancestry(run)
    unnamed = sorted(past.unknown_blocks - {row.block for row in rows})
    rows += [BlockExposure(block, 0, 0, None, None, past_unknown=True) for block in unnamed]
    if as_json:
        terminal.show_json([_as_object(row) for row in rows])
        return
    whole = sum(row.total for row in rows) or 1
    table: list[tuple[Any, ...]] = [
        (r.block, f"{r.magnitude:.6g}", f"{r.total / whole:.1%}", r.events, _span(r.first_step, r.last_step))
        for r in rows
    ]
    columns: tuple[str, ...] = ("block", "exposure", "share", "events", "steps")
    if not past.is_known:
        columns = (*columns, "before")
        table = [(*cells, "unknown" if r.past_unknown else "-") for cells, r in zip(table, rows, strict=True)]
    terminal.show_table(columns, table, right=frozenset({1, 2, 3}))
    if not past.is_known:
        terminal.show(_caution([row.block for row in rows if row.past_unknown], past))


def reverse(
    log: LogArgument,
    blocks: Annotated[list[str], typer.Argument(help="Blocks, by name.")],
    top: Annotated[int, typer.Option(help="How many sources to list.")] = 20,
    steps: StepsOption = None,
    run: RunOption = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Who shaped these blocks, ranked by recorded exposure.

    If some of them came from elsewhere the last line says so: it stands for whoever shaped them before.
    """
    with read_log(log, home) as view:
        ranking = view.exposure.reverse(blocks, top=top, run=run, steps=_steps(steps))
        past = view.exposure.ancestry(run)
    unknown = past.unknown_of(blocks)
    if as_json:
        lines = [{**terminal.plain(row), "magnitude": row.magnitude} for row in ranking]
        terminal.show_json([*lines, *([_nobody(unknown, past)] if unknown else [])])
        return
    rows = [(str(i), r.source, f"{r.magnitude:.6g}", f"{r.share:.2%}") for i, r in enumerate(ranking, start=1)]
    if unknown:
        rows.append(("?", "(unknown)", "?", "?"))
    terminal.show_table(("rank", "source", "exposure", "share"), rows, right=frozenset({0, 2, 3}))
    if unknown:
        terminal.show(_caution(unknown, past))


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="seal:NAME, checkpoint:SIZE, or a JSON-lines file.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    log: Annotated[str, typer.Option("--log", help="The log that seals and sizes are of.")] = "training",
    limit: Annotated[int, typer.Option(help="How many of each to print; JSON has all.")] = 20,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """What changed in the data: sources, attestations and examples added and dropped."""
    needs_log = any(name.startswith(("seal:", "checkpoint:")) for name in (before, after))
    view = LogReader.open(log_path(log, home)) if needs_log else None
    try:
        change = corpus.diff(corpus.read_corpus(before, view), corpus.read_corpus(after, view))
    finally:
        if view is not None:
            view.close()
    if as_json:
        terminal.show_json(change)
        return
    terminal.show(f"from {change.before} to {change.after}")
    for what in ("sources", "attestations", "examples"):
        part: corpus.Change = getattr(change, what)
        terminal.show(f"{what}: {len(part.added)} added, {len(part.dropped)} dropped")
        for sign, names in (("+", part.added), ("-", part.dropped)):
            for name in names[:limit]:
                terminal.show(f"  {sign} {name}")
            if len(names) > limit:
                terminal.show(f"  {sign} … {len(names) - limit} more")
    if change.moved:
        terminal.show(f"examples under another attestation: {len(change.moved)}")


def _nobody(blocks: Sequence[str], past: Ancestry) -> dict[str, Any]:
    """The line for whoever shaped blocks before this log tells of them: no number there is, not zero."""
    line = dict.fromkeys(("source", "total", "share", "magnitude"))
    return {**line, "past_unknown": True, "unknown_blocks": list(blocks), "base": past.base, "why": past.why()}


def _caution(blocks: Sequence[str], past: Ancestry) -> str:
    named = ", ".join(blocks[:_NAMED_MAX])
    more = f" and {len(blocks) - _NAMED_MAX} more" if len(blocks) > _NAMED_MAX else ""
    return f"Numbers and shares are of the recorded part. What shaped {named}{more} before is unknown: {past.why()}."


def _as_object(row: BlockExposure) -> dict[str, Any]:
    return {**terminal.plain(row), "magnitude": row.magnitude}


def _span(first: int | None, last: int | None) -> str:
    return "-" if first is None else f"{first}–{last}"


def _steps(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit()) or int(first) > int(last):
        raise ConfigError(f"{text} is not a range of steps.", remedy="Write it as 100:200.")
    return int(first), int(last)


def _hex(text: str, what: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise ConfigError(f"{text} is not {what} in hexadecimal.") from error
    return raw
