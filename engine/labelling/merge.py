"""`engine label --merge`: one result of several shards', from their journals."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.labelling import journal_file, writers
from engine.labelling.journal import Journal
from engine.labelling.journal_facts import MIXABLE, difference, differing
from engine.labelling.options import LabelOptions
from engine.labelling.outputs import (
    claimed_before,
    journal_of,
    make_folders,
    outputs_of,
    style_of,
    words_on_left_alone,
)
from engine.labelling.source import A_LIST, folder_of


@dataclass(frozen=True, kw_only=True)
class Part:
    path: Path
    """Of the journal."""
    copy: Path
    """Of it, which may be written; a shard itself is only read."""
    facts: dict[str, Any]
    is_finished: bool

    @property
    def names(self) -> list[str]:
        """Of the shards that it holds, as `2/8`; a whole result goes by its path."""
        return self.facts.get("parts") or [self.facts.get("shard") or str(self.path)]


def merge(options: LabelOptions) -> int:
    """The exit code. What lay at --out before is replaced once all shards are joined."""
    if options.dry_run or options.watch or options.shard or options.is_list or options.retry:
        raise UserError(
            "--merge joins results that are there: leave --dry-run, --watch, --shard, --list and "
            "--retry out."
        )
    target = journal_of(options.out)
    journals: list[Path] = []
    for path in options.videos:
        journal = journal_of(path)
        if not journal.is_file():
            raise UserError(f"{path} has no {journal.name} beside it: name results of label.")
        if journal.resolve() == target.resolve():
            raise UserError(f"--out {options.out} is one of the shards: name another file.")
        if journal.resolve() in [each.resolve() for each in journals]:
            raise UserError(f"{path} is named twice.")
        journals.append(journal)
    outputs = outputs_of(options)
    make_folders(options)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        parts = [_copied(path, Path(folder) / str(n)) for n, path in enumerate(journals)]
        facts = _shared_facts(parts, mix=options.mix)
        lacking = _lacking_shards(parts, mix=options.mix)
        claimed = claimed_before(outputs, fresh=options.fresh)
        beside = Path(folder) / "journal"
        with Journal(beside, shown_as=target) as whole:
            for part in parts:
                whole.merge_from(part.copy, below=_folder_beside(part.facts, facts))
            if target.exists() and not options.fresh:
                _refuse_other_labels(target, facts, whole)
            whole.claims.add(claimed)
            whole.bind(facts, mix=False, is_merged=True)
            whole.settle()
        journal_file.remove(target)
        beside.replace(target)
    with Journal(target) as whole:
        written = writers.write(whole, outputs, style_of(options, facts))
        done, failed = whole.counts()
    for path in written.files:
        print(f"written to {path}")
    print(f"{done:,} files labelled, {failed:,} failed, of {len(parts)} shards")
    for name in lacking:
        print(f"shard {name} is missing: name its result, too")
    halves = [part.path for part in parts if not part.is_finished]
    for path in halves:
        print(f"{path} isn't finished: run that shard again, and then --merge")
    if written.left_alone:
        print(words_on_left_alone(written.left_alone))
    return 1 if failed or lacking or halves or written.left_alone else 0


def _copied(path: Path, copy: Path) -> Part:
    journal_file.copy(path, copy)
    with Journal(copy, shown_as=path) as journal:
        part = Part(path=path, copy=copy, facts=journal.facts(), is_finished=journal.is_finished())
    if "classes" not in part.facts:
        raise UserError(f"{path} holds no labels yet: run that shard first.")
    return part


def _shared_facts(parts: list[Part], *, mix: bool) -> dict[str, Any]:
    shared: dict[str, Any] = {}
    for part in parts:
        facts = {key: value for key, value in part.facts.items() if key not in OF_ONE}
        for key in differing(shared, facts, mix=mix):
            words = difference(key, facts[key], shared[key])
            raise UserError(
                f"{part.path} doesn't go with {parts[0].path}, it holds labels {words}: name "
                "shards of one run" + (", or pass --mix to join them." if key in MIXABLE else ".")
            )
        shared = {**facts, **shared}
    names = sorted({name for part in parts for name in part.names})
    return {**shared, "shard": None, "parts": names}


SHARD = re.compile(r"\d+/(\d+)")
OF_ONE = ("shard", "parts", "merged", "finished")
"""Facts that shards don't share."""


def _lacking_shards(parts: list[Part], *, mix: bool) -> list[str]:
    """Raises UserError where they are not shards of one run, but with `mix`."""
    counts: dict[str, Path] = {}
    seen: dict[str, Path] = {}
    for part in parts:
        for name in part.names:
            shard = SHARD.fullmatch(name)
            other = counts.setdefault(shard[1] if shard else "", part.path)
            if len(counts) > 1 and mix:
                return []
            if len(counts) > 1:
                first = parts[0]
                raise UserError(
                    f"{other} ({name}) and {first.path} ({first.names[0]}) are not shards of one "
                    "run: name shards of one run, or pass --mix to join them."
                )
            if name in seen and not mix:
                raise UserError(
                    f"{seen[name]} and {part.path} are both shard {name}: name one of them, or "
                    "pass --mix, with which the later one's labels stand."
                )
            seen[name] = part.path
    (count,) = counts
    return [
        f"{number}/{count}"
        for number in range(1, int(count or 0) + 1)
        if f"{number}/{count}" not in seen
    ]


def _folder_beside(facts: dict[str, Any], whole: dict[str, Any]) -> Path | None:
    """Of a part of another folder than the whole, so that two files of one name stay apart."""
    root = facts.get("root", A_LIST)
    return None if root in (A_LIST, whole.get("root", A_LIST)) else folder_of(root)


def _refuse_other_labels(target: Path, facts: dict[str, Any], whole: Journal) -> None:
    """Those that a merge of the same shards made come again; all others would be lost."""
    with Journal(target) as journal:
        known = journal.facts()
        num_lost = whole.num_unknown(journal)
    other = f"name another --out, or pass --fresh to replace {target}."
    if not known.get("merged"):
        raise UserError(f"{target} holds labels that were made here and not by --merge: {other}")
    same = {key: value for key, value in facts.items() if key not in OF_ONE}
    for key in differing(known, same, mix=False):
        raise UserError(f"{target} holds labels {difference(key, known[key], same[key])}: {other}")
    if num_lost:
        raise UserError(
            f"{target} also holds {num_lost:,} files that are in none of these: {other}"
        )
