"""`licet policy`: read, adopt and compare policies, and explain what they say of an example."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import terminal
from licet.ledger.cli.options import AsJson, HomeOption
from licet.ledger.errors import ConfigError, Finding, NotFoundError
from licet.ledger.files import read_whole, write_whole
from licet.ledger.home import Home
from licet.ledger.log import now_ms
from licet.ledger.reader import LogReader
from licet.ledger.records import Determination, PolicyAdopted
from licet.policies import diff as comparison
from licet.policies import wire
from licet.policies.bands import Architecture, resolve
from licet.policies.cli.recording import reading, recording
from licet.policies.explain import Explanation
from licet.policies.explain import explain as explained
from licet.policies.policy import POLICY_BYTES_MAX, Policy

policy = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Who may teach what, how deep, and what may be said: the rules."
)
_DEFAULT = "default:"
_ACTIVE = "active"

PolicyArgument = Annotated[
    str, typer.Argument(metavar="POLICY", help="A file, default:NAME, active, or the digest of an adopted one.")
]
LayersOption = Annotated[int, typer.Option("--layers", min=1, help="How many layers the model has.")]
PerBlockOption = Annotated[int, typer.Option("--layers-per-block", min=1, help="How many of them make a block.")]
TiedOption = Annotated[bool, typer.Option("--tied", help="The head is the embedding.")]


@policy.callback()
def _policy() -> None:
    """Who may teach what, how deep, and what may be said: the rules."""


@policy.command()
def check(
    name: PolicyArgument,
    layers: LayersOption = 12,
    layers_per_block: PerBlockOption = 1,
    tied: TiedOption = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Read a policy and show how its bands lie over a model; says line and field of whatever is wrong."""
    read = _read(name, home)
    layout = resolve(read, _model(layers, layers_per_block, tied=tied))
    rows = [(block.name, ", ".join(layout.bands_of(i))) for i, block in enumerate(layout.blocks)]
    document = read.document
    if as_json:
        facts = {"policy": read.digest, "name": document.name, "version": document.version, "blocks": dict(rows)}
        terminal.show_json(facts)
        return
    terminal.show(f"good: {document.name} {document.version}, {document.title or 'without a title'}")
    terminal.show(f"  digest {read.digest.hex()}")
    terminal.show(
        f"  {len(document.licence)} kinds of licence, {len(document.authority)} authority classes, "
        f"{len(document.rule)} rules, {len(document.skill)} skills; verdicts in mode {document.inference.mode.value}"
    )
    terminal.show()
    terminal.show_table(("block", "bands"), reversed(rows))


@policy.command()
def adopt(
    name: PolicyArgument,
    by: Annotated[str | None, typer.Option(help="Who decided it. Default: the operator of the registry.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a policy the active one: its text and hash go into the registry log."""
    place = Home.find(home)
    read = _read(name, home)
    with recording(place) as registry:
        before = registry.registry.adopted
        is_new = before is None or before.policy != read.digest
        if is_new:
            registry.add(PolicyAdopted(read.digest, read.text, by or registry.registry.origin, now_ms()))
    write_whole(place.policy_file, read.text.encode())
    told = "Adopted" if is_new else "Already active:"
    text = f"{told} {read.document.name} {read.document.version}, {read.digest.hex()}."
    facts = {"policy": read.digest, "name": read.document.name, "adopted": is_new}
    terminal.show_result(facts, text, as_json=as_json)


@policy.command()
def diff(before: PolicyArgument, after: PolicyArgument, home: HomeOption = None, as_json: AsJson = False) -> None:
    """What changes from one policy to another, field by field."""
    changes = comparison.diff(_read(before, home), _read(after, home))
    if as_json:
        terminal.show_json({"changes": changes})
        return
    if not changes:
        terminal.show("The two say the same.")
    for change in changes:
        if change.before == comparison.ABSENT:
            terminal.show(f"+ {change.field} = {terminal.text(change.after)}")
        elif change.after == comparison.ABSENT:
            terminal.show(f"- {change.field} = {terminal.text(change.before)}")
        else:
            terminal.show(f"~ {change.field}: {terminal.text(change.before)} → {terminal.text(change.after)}")


@policy.command()
def explain(
    example: Annotated[Path, typer.Argument(help="An example on the wire, or JSON lines of them.")],
    name: Annotated[
        list[str] | None, typer.Option("--policy", "-p", help="As in check; several: the most restrictive wins.")
    ] = None,
    row: Annotated[int, typer.Option(min=1, help="Which line of the file.")] = 1,
    layers: LayersOption = 12,
    layers_per_block: PerBlockOption = 1,
    tied: TiedOption = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Which rule decided each block's weight for one example, in plain words. Exit code 1 if it is rejected."""
    policies = [_read(one, home) for one in name or [_ACTIVE]]
    found = wire.parse(_line(example, row))
    told = explained(found, policies, _model(layers, layers_per_block, tied=tied))
    if as_json:
        terminal.show_json({"example": found.content, **terminal.plain(told)})
    else:
        _show(told)
    if told.admission.determination is Determination.REJECTED:
        raise typer.Exit(Finding.exit_code)


def _show(told: Explanation) -> None:
    admission = told.admission
    of = f" of {admission.source}" if admission.source else ""
    terminal.show(f"{admission.determination.value}: an example{of}")
    for code, meaning in told.reasons:
        terminal.show(f"  {code}: {meaning}")
    terminal.show()
    rows = [(b.block, ", ".join(b.bands), f"{b.level}/15", b.rule, b.because) for b in reversed(told.blocks)]
    terminal.show_table(("block", "bands", "weight", "decided by", "because"), rows, right=frozenset({2}))
    if told.limits:
        terminal.show()
        bands = list(told.limits[0].weights)
        limits = [
            (f"{limit.policy}/{limit.name}", *(f"{limit.weights.get(band, 0):.2f}" for band in bands), limit.because)
            for limit in told.limits
        ]
        terminal.show_table(("limit", *bands, "meaning"), limits, right=frozenset(range(1, len(bands) + 1)))


def _model(layers: int, layers_per_block: int, *, tied: bool) -> Architecture:
    return Architecture.uniform(
        layers, layers_per_block=layers_per_block, embedding=1, layer=1, head=None if tied else 1
    )


def _read(name: str, home: Path | None) -> Policy:
    """The policy that a user names."""
    if name.startswith(_DEFAULT):
        return Policy.read_default(name.removeprefix(_DEFAULT))
    if Path(name).is_file():
        return Policy.parse(read_whole(Path(name), bytes_max=POLICY_BYTES_MAX), name)
    if name == _ACTIVE:
        with reading(Home.find(home)) as registry:
            return registry.policy()
    with LogReader.open(Home.find(home).log("registry")) as log:
        adopted = [record for _, record in log.all_of(PolicyAdopted)]
    found = {record.policy: record for record in adopted if len(name) >= 8 and record.policy.hex().startswith(name)}
    if len(found) != 1:
        raise ConfigError(
            f"{name} is neither a file nor a policy of this home.",
            remedy=f"Name a file, {_ACTIVE}, the digest of an adopted policy, or {_DEFAULT} and one of "
            f"{', '.join(Policy.defaults())}.",
        )
    return Policy.parse(next(iter(found.values())).text, f"The policy {name}")


def _line(path: Path, number: int) -> bytes:
    """One line of a file; the whole of it if it is one object over several lines."""
    try:
        with path.open("rb") as file:
            raw = file.readline(wire.EXAMPLE_BYTES_MAX + 1)
            if number == 1 and raw.strip() == b"{":
                return raw + file.read(wire.EXAMPLE_BYTES_MAX)
            for _ in range(number - 1):
                raw = file.readline(wire.EXAMPLE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", remedy="Look at its name and permissions."
        ) from error
    if not raw.strip():
        raise NotFoundError(f"{path} has no line {number}.")
    return raw
