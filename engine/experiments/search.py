"""Hyperparameter search with Optuna; needs the extra `tune`.

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
"""Number of seeds that Optuna's sampler accepts; the seed of a recipe may be larger."""
LARGEST = 1e300
"""Largest end of a range, since Optuna computes the difference of both ends."""


def search(experiment: Experiment, out: Path, run_trial: Callable[[Trial], Result]) -> list[Result]:
    """Run a search, or resume one that was stopped; finished trials count.

    Args:
        experiment: The ranges and all other settings.
        out: The folder of the search.
        run_trial: Runs one trial, or reads its result if it is finished.

    Returns:
        The results of all trials, the best first.

    Raises:
        UserError: `out` holds another search or is damaged, or there are several schemes.
        RefusedError: Optuna isn't installed.
    """
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
        raise UserError("a search needs exactly one scheme; name one in schemes.")
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
            f"{out / JOURNAL} is damaged ({error}): remove it to restart the search; finished "
            "trials are reused."
        ) from error
    if _as_text(study.user_attrs.get("ranges", ranges)) != _as_text(ranges):
        raise UserError(f"{out / JOURNAL} holds a search over other ranges: name another `out`.")
    study.set_user_attr("ranges", ranges)

    def trial_of(varied: dict[str, Any]) -> Trial:
        settings = merge(experiment.train, varied)
        return Trial(scheme=experiment.schemes[0], varied=varied, settings=settings)

    known = [trial.params for trial in study.get_trials() if trial.state.is_finished()]
    # A sampler that restarts with the same seed would suggest the same trials again.
    seed = (experiment.train.get("seed", 0) + len(known)) % SEEDS
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    results = [run_trial(trial_of(varied)) for varied in known]
    for _ in range(num_trials - len(known)):
        suggested = study.ask()
        varied = {name: _suggest(suggested, name, values) for name, values in ranges.items()}
        result = run_trial(trial_of(varied))
        results.append(result)
        if math.isfinite(result.val):
            study.tell(suggested, result.val)
        else:
            study.tell(suggested, state=optuna.trial.TrialState.FAIL)
    sign = 1 if lower_is_better else -1
    return sorted(
        results, key=lambda result: sign * result.val if math.isfinite(result.val) else math.inf
    )


def check(experiment: Experiment) -> None:
    """Check the settings at both ends of every range before anything runs."""
    for name, values in experiment.search.items():
        if name == "trials":
            if type(values) is not int or values < 1:
                raise UserError(
                    f"search: trials must be a whole number of at least 1, not {values!r}."
                )
            continue
        if name == "metric":
            raise UserError("search: trials are ranked by the metric, so it can't be searched.")
        if not _is_list(values) and not _is_range(values):
            raise UserError(
                f"search: {name} must be a list of values, or a range as in "
                f"{{ low = 1e-4, high = 1e-2, log = true }}, not {values!r}."
            )
        ends = values if isinstance(values, list) else [values["low"], values["high"]]
        for end in ends:
            changed = dataclasses.replace(experiment, search={}, vary={name: [end]})
            changed.check()


def _as_text(ranges: dict[str, Any]) -> str:
    """JSON, which distinguishes 1 from 1.0, as Optuna does."""
    return json.dumps(ranges, sort_keys=True)


def _is_list(values: Any) -> bool:
    """True for a list of values that Optuna supports."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(value, bool | int | float | str) for value in values)
    )


def _is_range(value: Any) -> bool:
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        return False
    low, high, log = value["low"], value["high"], value.get("log", False)
    if not all(type(end) in (int, float) for end in (low, high)) or type(log) is not bool:
        return False
    return -LARGEST <= low <= high <= LARGEST and (low > 0 or not log)


def _suggest(trial: Any, name: str, values: Any) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(name, values)
    low, high, log = values["low"], values["high"], values.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)
