"""`licet unlearn`: ordering that what was taught under a revoked attestation be unlearned, and carrying it out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from licet.ledger import terminal
from licet.ledger.cli.options import AsJson, HomeOption
from licet.ledger.errors import ConfigError
from licet.ledger.files import read_whole, write_whole
from licet.ledger.home import Home, passphrase
from licet.ledger.keys import load_key
from licet.ledger.log import now_ms
from licet.ledger.records import ClaimedMs
from licet.policies.acts import NotEntitledError
from licet.policies.cli.moments import moment
from licet.policies.cli.recording import reading
from licet.policies.unlearning import ORDER_BYTES_MAX, OrderTerms, Scope, open_order, sign_order

unlearn = typer.Typer(no_args_is_help=True, add_completion=False, help="Unlearn what a revoked attestation taught.")

_DAY_MS = 86_400_000


@unlearn.command("order")
def order(
    attestation: Annotated[str, typer.Argument(metavar="ATTESTATION", help="Its id, or the first digits of it.")],
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Where the signed order is written.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the order.")],
    weight: Annotated[
        list[str] | None, typer.Option(help="NAME=-W for a band, W from 0 to 1; repeat it. Default: *=-1.")
    ] = None,
    blocks: Annotated[bool, typer.Option("--blocks", help="The names are those of blocks, not of bands.")] = False,
    damage_max: Annotated[
        float, typer.Option(min=0, max=1, help="How much the loss on held-out text may rise, as a part of it.")
    ] = 0.02,
    until: Annotated[str | None, typer.Option(help="When the order ends: a date. Default: in 30 days.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="The key of whoever orders it. Default: the operator's, the registry's own.")
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Sign an order. It counts once the attestation is revoked, and for whoever has the right to give it."""
    place, at_ms = Home.find(home), now_ms()
    signer = load_key(key or place.key_file("registry"), passphrase())
    with reading(place) as registry:
        recorded = registry.find(attestation).attestation
        source = registry.source_with_key(signer.verifier)
        by = registry.origin if signer.verifier.public == registry.operator_key.public else source and source.id
        if by is None:
            raise NotEntitledError(
                f"{signer.verifier} is nobody's key in this registry now.",
                remedy="Sign with the key of the attestation's source, of an authority with that right, or the "
                "operator's.",
            )
        terms = OrderTerms(
            registry.origin,
            recorded.id,
            by,
            Scope.BLOCKS if blocks else Scope.BANDS,
            tuple(sorted(map(_weight, weight or ["*=-1"]))),
            damage_max,
            reason,
            at_ms,
            ClaimedMs(moment(until, "--until") or at_ms + 30 * _DAY_MS),
        )
        envelope = sign_order(terms, signer)
        made = open_order(envelope, registry, at_ms=at_ms)
    write_whole(output, envelope)
    facts = {"order": made.id, "attestation": recorded.id, "by": by, "file": str(output)}
    terminal.show_result(facts, f"{made.id.hex()}  {by} orders it, written to {output}", as_json=as_json)


@unlearn.command("run")
def run(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="The sealed checkpoint to unlearn from.")],
    order_file: Annotated[Path, typer.Option("--order", help="The signed order.")],
    held_out: Annotated[
        Path, typer.Option(help="Texts that were never taught under it: a file or folder; they bound the damage.")
    ],
    context: Annotated[int, typer.Option(min=8, help="Tokens in a sample at most.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of the steps back.")] = 3e-4,
    steps_max: Annotated[int, typer.Option(min=1, help="Steps at most.")] = 200,
    check_every: Annotated[int, typer.Option(min=1, help="Steps between two looks at the damage.")] = 1,
    target_loss: Annotated[
        float | None, typer.Option(min=0, help="Nats a token at which a text counts as unlearned. Default: held out.")
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Carry out an order: step back on the examples of its attestation, record each step, and seal what comes of it."""
    from licet.train.data.held_out import texts_in  # noqa: PLC0415
    from licet.train.unlearning.session import Settings, carry_out  # noqa: PLC0415

    envelope = read_whole(order_file, bytes_max=ORDER_BYTES_MAX)
    texts = list(texts_in(held_out, "text", 256))
    settings = Settings(context, batch, learning_rate, steps_max, check_every, target_loss)
    done = carry_out(Home.find(home), model, envelope, texts, settings)
    facts = {**asdict(done), "directory": str(done.directory) if done.directory is not None else None}
    terminal.show_result(
        facts,
        f"{done.ending.value}: {done.steps} steps on {done.examples} examples, {done.steps_undone} taken back\n"
        f"their loss {done.loss_before:.3f} → {done.loss_after:.3f} nats a token, "
        f"held out {done.held_out_before:.3f} → {done.held_out_after:.3f} bits per byte\n"
        f"{done.directory or 'Nothing could be kept, and the model is as it was.'}",
        as_json=as_json,
    )
    if done.directory is None:
        raise typer.Exit(1)


def _weight(said: str) -> tuple[str, float]:
    name, _, number = said.rpartition("=")
    try:
        return name, float(number)
    except ValueError as error:
        raise ConfigError(f"{said!a} is no weight.", remedy="Write NAME=-W, as surface=-0.5.") from error
