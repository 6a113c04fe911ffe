"""A log made anew from a mirror, for when its database is lost or was rolled back.

What a mirror holds is verified whole before anything is written; the indexes are then rebuilt from the entries, and the
result is an ordinary log that its key can go on with. Entries that were never exported are lost.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from licet.ledger import fsck
from licet.ledger.chunks import split
from licet.ledger.codec import decode
from licet.ledger.directory import Description, LogDirectory
from licet.ledger.errors import ConfigError, StorageError, VerificationError
from licet.ledger.files import sync_folder, write_whole
from licet.ledger.note import VerifierKey
from licet.ledger.records import LogOpened
from licet.ledger.store import Store, Table
from licet.ledger.tileview import TileView
from licet.ledger.tree import leaf_hashes
from licet.ledger.verify import Progress, Report, verify
from licet.ledger.view import HEAD, Head, checkpoint_key

_BATCH_ENTRIES = 4096


def restore(view: TileView, path: Path, key: VerifierKey, *, progress: Progress | None = None) -> Report:
    """Make the log at `path` from tiles that verify under `key`. It appears whole or not at all."""
    if path.exists() or LogDirectory(path).anchor.exists():
        raise ConfigError(
            f"{path} or its anchor is still there.",
            remedy="Move both away first, and keep them: a log that was rolled back is evidence.",
        )
    report = verify(view, view.note, key, leaf_tiles=True, progress=progress)
    opened = decode(view.entry(0))
    if not isinstance(opened, LogOpened):
        raise VerificationError("The first entry does not open a log.", index=0)
    making = LogDirectory(path.with_name(f".{path.name}.restoring"))
    shutil.rmtree(making.path, ignore_errors=True)
    try:
        making.database.mkdir(parents=True)
        write_whole(
            making.description_file, Description(opened.origin, VerifierKey.parse(opened.verifier_key)).to_json()
        )
        _write_entries(view, making)
        fsck.repair(making.path, progress=progress)
        write_whole(LogDirectory(path).anchor, view.note)
        making.path.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} could not be made: {error.strerror or error}.", remedy="Look at space.") from error
    finally:
        shutil.rmtree(making.path, ignore_errors=True)
    return report


def _write_entries(view: TileView, making: LogDirectory) -> None:
    store = Store.create(making.database)
    try:
        for start in range(0, view.size, _BATCH_ENTRIES):
            batch = store.batch()
            for chunk in view.chunks(start, start + _BATCH_ENTRIES):
                lengths = chunk.offsets[1:] - chunk.offsets[:-1]
                for key, value in split(chunk.first, chunk.data, lengths, leaf_hashes(chunk.data, chunk.offsets)):
                    batch.put(Table.ENTRIES, key, value)
            store.write(batch)
        batch = store.batch()
        batch.put(Table.META, HEAD, Head(view.size, view.checkpoint.root).pack())
        batch.put(Table.META, checkpoint_key(view.size), view.note)
        store.write(batch)
    finally:
        store.close()
