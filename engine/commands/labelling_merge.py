"""`engine label --merge`: one result of several shards', from their journals."""

import tempfile
from pathlib import Path
from typing import Any

from engine.commands.labelling import journal_of, make_folders, outputs_of, style_of
from engine.commands.labelling_options import Asked
from engine.errors import UserError
from engine.labelling import writers
from engine.labelling.journal import MIXABLE, Journal, difference, differing


def merge(asked: Asked) -> int:
    """The exit code. What lay at --out before is replaced once all shards are joined."""
    journals = [journal_of(path) for path in asked.videos]
    for path, journal in zip(asked.videos, journals, strict=True):
        if not journal.is_file():
            raise UserError(f"{path} has no {journal.name} beside it: name results of label.")
    target = journal_of(asked.out)
    if target in journals:
        raise UserError(f"--out {asked.out} is one of the shards: name another file.")
    outputs = outputs_of(asked)
    facts = _shared_facts(journals, mix=asked.mix)
    if target.exists() and not asked.fresh:
        _refuse_own_labels(target)
    make_folders(asked)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        beside = Path(folder) / "journal"
        with Journal(beside) as whole:
            for path in journals:
                whole.take_in(path)
            whole.bind({**facts, "shard": None}, mix=False, is_merged=True)
        Journal.remove(target)
        beside.replace(target)
    with Journal(target) as whole:
        for path in writers.write(whole, outputs, style_of(asked, facts)):
            print(f"written to {path}")
        done, failed = whole.counts()
    print(f"{done:,} files labelled, {failed:,} failed, of {len(journals)} shards")
    return 1 if failed else 0


def _shared_facts(journals: list[Path], *, mix: bool) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    for path in journals:
        with Journal(path) as part:
            facts = part.facts()
        if "classes" not in facts:
            raise UserError(f"{path} holds no labels yet: run that shard first.")
        for key in ("shard", "merged"):
            facts.pop(key, None)
        for key in differing(shared, facts, mix=mix):
            words = difference(key, facts[key], shared[key])
            raise UserError(
                f"{path} doesn't go with {journals[0]}, it holds labels {words}: name shards of "
                "one run" + (", or pass --mix to join them." if key in MIXABLE else ".")
            )
        shared = {**facts, **shared}
    return shared


def _refuse_own_labels(target: Path) -> None:
    """Those that a merge made come again from its shards."""
    with Journal(target) as journal:
        if not journal.facts().get("merged"):
            raise UserError(
                f"{target} holds labels that were made here and not by --merge: name another "
                "--out, or pass --fresh to replace them."
            )
