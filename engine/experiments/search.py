"""Optuna's search over ranges instead of a grid; it needs the extra `tune`.

[search]
trials = 20
lr = { low = 1e-4, high = 1e-2, log = true }
batch_size = { low = 8, high = 32 }
sampling = ["uniform", "equidistant"]
"""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import RefusedError, UserError
from engine.experiments.experiment import Experiment, Trial
from engine.experiments.trial import Result
from engine.training.recipe import merge
from trt.probe import install_command

JOURNAL = "search.log"
TRIALS = 20
SEEDS = 2**32
"""So many are those of Optuna's sampler; a recipe's may be larger."""
LARGEST = 1e300
"""Of a range's ends, since it draws between their difference and 0."""


def search(experiment: Experiment, out: Path, run_trial: Callable[[Trial], Result]) -> list[Result]:
    """Every trial's result; a search that was stopped goes on, and counts what it has."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise RefusedError(f"searching needs Optuna: {install_command('tune')}.") from error
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    ranges = dict(experiment.search)
    num_trials = ranges.pop("trials", TRIALS)
    lower_is_better = experiment.train.get("metric") == "loss"
    if len(experiment.schemes) != 1:
        raise UserError("a search runs under one scheme; name one in `schemes`.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="minimize" if lower_is_better else "maximize",
            storage=JournalStorage(JournalFileBackend(str(out / JOURNAL))),
            study_name="search",
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{out / JOURNAL} is damaged ({error}): remove it, and the search begins anew with the "
            "results that are there."
        ) from error
    if _in_words(study.user_attrs.get("ranges", ranges)) != _in_words(ranges):
        raise UserError(f"{out / JOURNAL} holds a search over other ranges: name another --out.")
    study.set_user_attr("ranges", ranges)

    def trial_of(varied: dict[str, Any]) -> Trial:
        settings = merge(experiment.train, varied)
        return Trial(scheme=experiment.schemes[0], varied=varied, settings=settings)

    known = [each.params for each in study.get_trials() if each.state.is_finished()]
    # a sampler that began again with the same seed would ask for the same trials again
    seed = (experiment.train.get("seed", 0) + len(known)) % SEEDS
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    results = [run_trial(trial_of(varied)) for varied in known]
    for _ in range(num_trials - len(known)):
        asked = study.ask()
        trial = trial_of({name: _suggest(asked, name, each) for name, each in ranges.items()})
        result = run_trial(trial)
        results.append(result)
        if math.isfinite(result.val):
            study.tell(asked, result.val)
        else:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
    sign = 1 if lower_is_better else -1
    return sorted(
        results, key=lambda each: sign * each.val if math.isfinite(each.val) else math.inf
    )


def check(experiment: Experiment) -> None:
    """Both ends of every range, before anything runs."""
    for name, each in experiment.search.items():
        if name == "trials":
            if type(each) is not int or each < 1:
                raise UserError(
                    f"search: trials must be a whole number of at least 1, not {each!r}."
                )
            continue
        if name == "metric":
            raise UserError("search: trials are ranked by the metric, so that it stays the same.")
        if not _is_list(each) and not _is_range(each):
            raise UserError(
                f"search: {name} must be a list of values, or a range as in "
                f"{{ low = 1e-4, high = 1e-2, log = true }}, not {each!r}."
            )
        ends = each if isinstance(each, list) else [each["low"], each["high"]]
        for end in ends:
            changed = dataclasses.replace(experiment, search={}, vary={name: [end]})
            changed.check()


def _in_words(ranges: dict[str, Any]) -> str:
    """Whole numbers are other than 1.0, for Optuna as here."""
    return json.dumps(ranges, sort_keys=True)


def _is_list(each: Any) -> bool:
    """Optuna chooses among plain values alone."""
    return (
        isinstance(each, list)
        and bool(each)
        and all(isinstance(value, bool | int | float | str) for value in each)
    )


def _is_range(each: Any) -> bool:
    if not isinstance(each, dict) or not {"low", "high"} <= set(each) <= {"low", "high", "log"}:
        return False
    low, high, log = each["low"], each["high"], each.get("log", False)
    if not all(type(end) in (int, float) for end in (low, high)) or type(log) is not bool:
        return False
    return -LARGEST <= low <= high <= LARGEST and (low > 0 or not log)


def _suggest(asked: Any, name: str, each: Any) -> Any:
    if isinstance(each, list):
        return asked.suggest_categorical(name, each)
    low, high, log = each["low"], each["high"], each.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return asked.suggest_int(name, low, high, log=log)
    return asked.suggest_float(name, low, high, log=log)
