"""Implements `engine label --merge`: joins the results of several shards from their journals."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.labelling import journal_file, writers
from engine.labelling.addresses import is_address
from engine.labelling.journal import Journal
from engine.labelling.journal_facts import MIXABLE, difference, differing
from engine.labelling.options import LabelOptions
from engine.labelling.outputs import (
    claimed_before,
    describe_left_alone,
    journal_of,
    make_folders,
    outputs_of,
    style_of,
)
from engine.labelling.source import A_LIST, folder_of


@dataclass(frozen=True, kw_only=True)
class Part:
    path: Path
    """The journal of the shard, which is only read."""
    copy: Path
    """A copy of the journal that may be written."""
    facts: dict[str, Any]
    is_finished: bool

    @property
    def names(self) -> list[str]:
        """Names of its shards, such as `2/8`; the path if the result is not sharded."""
        return self.facts.get("parts") or [self.facts.get("shard") or str(self.path)]


def merge(options: LabelOptions) -> int:
    """Join shards and return the exit code; --out is replaced after all shards are joined."""
    if options.dry_run or options.watch or options.shard or options.is_list or options.retry:
        raise UserError(
            "`merge=True` joins existing results: leave out `dry_run`, `watch`, `shard`, `list` "
            "and `retry`."
        )
    target = journal_of(options.out)
    journals: list[Path] = []
    for path in map(Path, options.videos):
        journal = journal_of(path)
        if not journal.is_file():
            raise UserError(
                f"{path} has no {journal.name} beside it: name results of `engine label`."
            )
        if journal.resolve() == target.resolve():
            raise UserError(f"`out` {options.out} is one of the shards: name another file.")
        if journal.resolve() in [known.resolve() for known in journals]:
            raise UserError(f"{path} is named twice.")
        journals.append(journal)
    outputs = outputs_of(options)
    make_folders(options)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        parts = [_copied(path, Path(folder) / str(n)) for n, path in enumerate(journals)]
        facts = _shared_facts(parts, mix=options.mix)
        missing = _missing_shards(parts, mix=options.mix)
        claimed = claimed_before(outputs, fresh=options.fresh)
        temporary = Path(folder) / "journal"
        with Journal(temporary, shown_as=target) as merged:
            for part in parts:
                merged.merge_from(part.copy, below=_other_root(part.facts, facts))
            if target.exists() and not options.fresh:
                _refuse_to_lose_labels(target, facts, merged)
            merged.claims.add(claimed)
            merged.bind(facts, mix=False, is_merged=True)
            merged.settle()
        journal_file.remove(target)
        temporary.replace(target)
    with Journal(target) as merged:
        written = writers.write(merged, outputs, style_of(options, facts))
        done, failed = merged.counts()
    for path in written.files:
        print(f"written to {path}")
    print(f"{done:,} files labelled, {failed:,} failed, of {len(parts)} shards")
    for name in missing:
        print(f"shard {name} is missing: name its result, too")
    unfinished = [part.path for part in parts if not part.is_finished]
    for path in unfinished:
        print(f"{path} isn't finished: run that shard again, then run --merge again")
    if written.left_alone:
        print(describe_left_alone(written.left_alone))
    return 1 if failed or missing or unfinished or written.left_alone else 0


def _copied(path: Path, copy: Path) -> Part:
    journal_file.copy(path, copy)
    with Journal(copy, shown_as=path) as journal:
        part = Part(path=path, copy=copy, facts=journal.facts(), is_finished=journal.is_finished())
    if "classes" not in part.facts:
        raise UserError(f"{path} has no labels yet: run that shard first.")
    return part


def _shared_facts(parts: list[Part], *, mix: bool) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    for part in parts:
        facts = {key: value for key, value in part.facts.items() if key not in NOT_SHARED}
        for key in differing(shared, facts, mix=mix):
            reason = difference(key, facts[key], shared[key])
            raise UserError(
                f"{part.path} can't be merged with {parts[0].path}, it holds labels {reason}: name "
                "shards of one run"
                + (", or pass `mix=True` to join them." if key in MIXABLE else ".")
            )
        shared = {**facts, **shared}
    names = sorted({name for part in parts for name in part.names})
    return {**shared, "shard": None, "parts": names}


SHARD = re.compile(r"\d+/(\d+)")
NOT_SHARED = ("shard", "parts", "merged", "finished", "decoder")
"""Facts that differ between the shards of a run."""


def _missing_shards(parts: list[Part], *, mix: bool) -> list[str]:
    """Names of missing shards; without `mix`, raises UserError for shards of different runs."""
    counts: dict[str, Path] = {}
    seen: dict[str, Path] = {}
    for part in parts:
        for name in part.names:
            shard = SHARD.fullmatch(name)
            path = counts.setdefault(shard[1] if shard else "", part.path)
            if len(counts) > 1 and mix:
                return []
            if len(counts) > 1:
                first = parts[0]
                raise UserError(
                    f"{path} ({name}) and {first.path} ({first.names[0]}) are not shards of one "
                    "run: name shards of one run, or pass `mix=True` to join them."
                )
            if name in seen and not mix:
                raise UserError(
                    f"{seen[name]} and {part.path} are both shard {name}: name one of them, or "
                    "pass `mix=True` to keep the labels of the later one."
                )
            seen[name] = part.path
    (count,) = counts
    return [
        f"{number}/{count}"
        for number in range(1, int(count or 0) + 1)
        if f"{number}/{count}" not in seen
    ]


def _other_root(facts: dict[str, Any], merged: dict[str, Any]) -> Path | None:
    """The root of a part if it differs from the merged root; keeps files of equal name apart."""
    root = facts.get("root", A_LIST)
    if root in (A_LIST, merged.get("root", A_LIST)) or is_address(root):
        return None
    return folder_of(root)


def _refuse_to_lose_labels(target: Path, facts: dict[str, Any], merged: Journal) -> None:
    """Raise UserError if `target` holds labels that are not in the merged journal."""
    with Journal(target) as journal:
        known = journal.facts()
        num_lost = merged.num_unknown(journal)
    hint = f"name another `out`, or pass `fresh=True` to replace {target}."
    if not known.get("merged"):
        raise UserError(f"{target} holds labels that `merge=True` did not write: {hint}")
    same = {key: value for key, value in facts.items() if key not in NOT_SHARED}
    for key in differing(known, same, mix=False):
        raise UserError(f"{target} holds labels {difference(key, known[key], same[key])}: {hint}")
    if num_lost:
        raise UserError(
            f"{target} also holds {num_lost:,} files that are in none of these shards: {hint}"
        )
