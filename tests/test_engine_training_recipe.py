"""Losses, optimizers, schedules and recipes: what is decided before a run begins."""

import json
import re
import tomllib
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from dali_pipelines.loaders.loader_config import Sample
from engine.commands import setting_flags
from engine.errors import UserError
from engine.models.freezing import is_new, set_frozen
from engine.models.registry import FAMILIES, PRESETS, ModelSpec, build
from engine.training import recipe as recipes
from engine.training import run_folder
from engine.training.losses import Criterion, LossConfig, class_weights, mix, oversample
from engine.training.optim import OptimConfig, depths_of, make_optimizer, make_schedule
from engine.training.recipe import Recipe

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 1.0]])
LABELS = torch.tensor([0, 2, 0])
WANTED = one_hot(LABELS, 3).float()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_torch(smoothing: float) -> None:
    ours = Criterion(LossConfig(label_smoothing=smoothing))(LOGITS, WANTED)
    theirs = cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)


def test_class_weights_count_as_in_torch() -> None:
    weights = torch.tensor([0.5, 1.0, 2.0])
    ours = Criterion(LossConfig(), weights)(LOGITS, WANTED)
    torch.testing.assert_close(
        ours, cross_entropy(LOGITS, LABELS, weight=weights, reduction="none")
    )


def test_focal_loss_minds_less_what_is_known() -> None:
    plain = Criterion(LossConfig())(LOGITS, WANTED)
    focal = Criterion(LossConfig(loss="focal", focal_gamma=2.0))(LOGITS, WANTED)
    certainty = torch.exp(-plain)
    torch.testing.assert_close(focal, plain * (1 - certainty) ** 2)
    sure = torch.tensor([[80.0, 0.0, 0.0]], requires_grad=True)
    Criterion(LossConfig(loss="focal", focal_gamma=0.5))(sure, WANTED[:1]).sum().backward()
    assert sure.grad is not None
    assert torch.isfinite(sure.grad).all()
    same = Criterion(LossConfig(loss="focal", focal_gamma=0.0))(LOGITS, WANTED)
    torch.testing.assert_close(same, plain)


def rows_with(counts: list[int]) -> list[Sample]:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [
        Sample(id=number, path=Path(f"{number}.avi"), label=label, frames=9)
        for number, label in enumerate(labels)
    ]


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_balanced_weights_are_one_on_average(counts: list[int]) -> None:
    rows = rows_with(counts)
    weights = class_weights(rows, len(counts))
    sums = torch.zeros(len(counts))
    for row in rows:
        sums[row.label] += weights[row.label]
    torch.testing.assert_close(sums, sums.mean().expand(len(counts)))
    assert float(sums.sum()) == pytest.approx(len(rows), rel=1e-5)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_oversampling_shows_all_classes_alike(counts: list[int]) -> None:
    rows = rows_with(counts)
    more = oversample(rows)
    assert set(Counter(row.label for row in more).values()) == {max(counts)}
    assert {row.id for row in more} == {row.id for row in rows}
    assert len({(row.id, row.repeat) for row in more}) == len(more)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_clips_keep_their_shape_and_their_labels_their_sum(kind: str) -> None:
    torch.manual_seed(0)
    clips, labels = torch.randn(4, 3, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    mixed, wanted = mix(LossConfig(**{kind: 1.0}), clips, labels, 3)
    assert type(mixed) is torch.Tensor
    assert mixed.shape == clips.shape
    assert not torch.equal(mixed, clips)
    torch.testing.assert_close(wanted.sum(dim=1), torch.ones(4))
    share = wanted[0, 0]
    if kind == "mixup":
        torch.testing.assert_close(mixed[0], clips[0] * share + clips[3] * (1 - share))


def test_without_mixing_clips_are_left_alone() -> None:
    clips = torch.randn(2, 3, 3, 8, 8)
    same, wanted = mix(LossConfig(), clips, torch.tensor([1, 0]), 3)
    assert same is clips
    assert wanted.tolist() == [[0, 1, 0], [1, 0, 0]]


def small(family: str) -> torch.nn.Module:
    return build(*ModelSpec.of_preset(family, "small", 4))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_weight_is_in_one_group_and_biases_never_decay(family: str) -> None:
    model = small(family)
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.1, layer_decay=0.8))
    grouped = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in grouped} == {id(weight) for weight in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))
    for group in optimizer.param_groups:
        for weight in group["params"]:
            bare = weight.ndim < 2 or (weight.ndim == 3 and weight.shape[0] == 1)
            assert (group["weight_decay"] == 0) == bare


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_head_learns_fastest_and_the_stem_slowest(family: str) -> None:
    names = [name for name, _ in small(family).named_parameters()]
    depths = depths_of(names)
    assert max(depths.values()) >= 3
    head = [depth for name, depth in depths.items() if re.match(r"head|network\.classifier", name)]
    assert set(head) == {max(depths.values())}
    assert depths[names[0]] == min(depths.values())
    over_time = [depth for name, depth in depths.items() if "over_time" in name]
    assert all(depth < max(depths.values()) for depth in over_time)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimizer_learns(name: Any) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 1)
    optimizer = make_optimizer(layer, OptimConfig(optimizer=name, lr=0.05, weight_decay=0.0))
    x = torch.randn(50, 3)
    losses = []
    for _ in range(60):
        loss = (layer(x) - x.sum(dim=1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 5


def rates(config: OptimConfig, steps: int = 100) -> list[float]:
    layer = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(layer, config)
    schedule = make_schedule(optimizer, config, num_steps=steps, steps_per_epoch=10)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_warms_up_and_ends_near_nought() -> None:
    found = rates(OptimConfig(lr=1.0, schedule="cosine", warmup=0.2))
    assert max(found) == pytest.approx(1.0)
    assert found[:20] == sorted(found[:20])
    assert found[20:] == sorted(found[20:], reverse=True)
    assert found[-1] < 0.001


def test_step_divides_by_ten_and_constant_stays() -> None:
    found = rates(OptimConfig(lr=1.0, schedule="step", step_epochs=4, warmup=0.0))
    assert found[39] == pytest.approx(1.0)
    assert found[40] == pytest.approx(0.1)
    assert found[80] == pytest.approx(0.01)
    assert set(rates(OptimConfig(lr=0.5, schedule="constant", warmup=0.0))) == {0.5}


@pytest.mark.parametrize(
    "values", [(0.5, 0.6, 0.6, 0.6, 0.6, 0.6), (-2.1, -2.0, -2.0, -2.0, -2.1, -2.0)]
)
def test_plateau_waits_for_epochs_without_gain(values: tuple[float, ...]) -> None:
    config = OptimConfig(lr=1.0, schedule="plateau", step_epochs=2)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), config)
    schedule: Any = make_schedule(optimizer, config, num_steps=9, steps_per_epoch=3)
    found = []
    for value in values:
        schedule.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("family", list(FAMILIES))
def test_frozen_parts_neither_learn_nor_keep_statistics(family: str) -> None:
    model = small(family).train()
    set_frozen(model, True)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning
    assert all(is_new(name) for name in learning)
    clips = torch.randn(2, 12, 3, 64, 64)
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(clips)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    set_frozen(model.train(), False)
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_frozen_share_is_the_first_layers_with_their_statistics(family: str) -> None:
    model = small(family).train()
    set_frozen(model, False, share=0.5)
    pretrained = [weight for name, weight in model.named_parameters() if not is_new(name)]
    learns = [weight.requires_grad for weight in pretrained]
    assert learns == sorted(learns)  # False before True
    assert 0.3 <= learns.count(False) / len(learns) <= 0.7
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(2, 12, 3, 64, 64))
    for name, module in model.named_modules():
        weights = list(module.parameters(recurse=False))
        if "BatchNorm" in type(module).__name__:
            is_fixed = not weights[0].requires_grad
            mean = f"{name}.running_mean"
            assert torch.equal(model.get_buffer(mean), before[mean]) == is_fixed
    set_frozen(model.train(), False)
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_preset_is_a_recipe_that_can_be_saved(family: str) -> None:
    for preset in PRESETS[family]:
        recipe = Recipe.resolve({"model": family, "preset": preset})
        text = recipes.to_toml(recipe.flat())
        assert Recipe.resolve(tomllib.loads(text)) == recipe


def test_flags_win_over_the_preset_and_options_are_merged() -> None:
    recipe = Recipe.resolve(
        {
            "model": "cnn-lstm",
            "preset": "small",
            "num_frames": 5,
            "lr": 1,
            "options": {"recurrence": {"hidden": 7}},
        }
    )
    assert recipe.clip.num_frames == 5
    assert recipe.clip.crop == PRESETS["cnn-lstm"]["small"].clip.crop
    spec = recipe.model_spec(3)
    assert spec.options.recurrence.hidden == 7
    assert spec.options.recurrence.bidirectional
    assert spec.options.backbone == "mobilenetv2_035"


def test_tables_are_merged() -> None:
    base = {"lr": 1, "options": {"backbone": "x", "recurrence": {"cell": "gru", "hidden": 3}}}
    changes = {"lr": 2, "options": {"recurrence": {"hidden": 9}}}
    assert recipes.merge(base, changes) == {
        "lr": 2,
        "options": {"backbone": "x", "recurrence": {"cell": "gru", "hidden": 9}},
    }


def test_values_of_flags_are_those_of_toml() -> None:
    for text in ("lr=" + "9" * 5000, "lr=" + "[" * 50_000):
        with pytest.raises(UserError, match="the value of lr can't be read"):
            setting_flags.setting(text)
    assert setting_flags.setting("fps=abc") == ("fps", "abc")
    options = [
        setting_flags.setting(each) for each in ("recurrence=5", "recurrence.hidden=3", "dim=2")
    ]
    assert setting_flags.nested(options) == {"recurrence": {"hidden": 3}, "dim": 2}
    deep = [("options.recurrence.hidden", 3), ("options.dim", 2), ("a.b.c.d", 1)]
    assert setting_flags.nested(deep) == {
        "options": {"recurrence": {"hidden": 3}, "dim": 2}, "a": {"b": {"c.d": 1}},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("given_", ["options.reduction=-1", "options={ reduction = -1 }"])
def test_flags_for_one_table_are_all_heard(
    run_engine, synth_master: Path, tmp_path: Path, given_: str
) -> None:
    wrong = run_engine(
        "train", "--data", synth_master, "--model", "vit-lstm", "--preset", "small",
        "--set", given_, "--option", "recurrence.hidden=3", "--out", tmp_path / "run",
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "reduction must be a whole number of at least 0, not -1" in wrong.stderr


def test_any_text_can_be_saved() -> None:
    values = {"weights": 'a "quoted" 🎬 \\ path', "options": {"": 1, 'a "key"': {"b c": 2}}}
    assert tomllib.loads(recipes.to_toml(values)) == values


TOML_VALUES = st.recursive(
    st.integers()
    | st.just(10**400)
    | st.floats()
    | st.booleans()
    | st.text()
    | st.dates()
    | st.datetimes()
    | st.times(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
WORDS = ("fp32", "top1", "vivit", "none", "focal", "", "\0", "joint", "factorised")
ANY_VALUE = TOML_VALUES | st.sampled_from(WORDS)
FIELDS = sorted({each.name for kind in FAMILIES.values() for each in fields(kind.Options)})


def resolves_or_says_why(settings: dict[str, Any]) -> None:
    try:
        recipe = Recipe.resolve(settings)
    except UserError as error:
        if not str(error).endswith("."):
            raise AssertionError(f"{error} is no sentence") from error
        return
    recipe.model_spec(3)
    assert Recipe.resolve(recipe.flat()) == recipe


@given(st.sampled_from(recipes.setting_names()), ANY_VALUE)
def test_any_value_of_any_setting_is_used_or_refused(name: str, value: Any) -> None:
    resolves_or_says_why({"model": "cnn-lstm", "preset": "small", name: value})


@given(st.sampled_from(list(FAMILIES)), st.sampled_from(FIELDS) | st.text(), ANY_VALUE)
def test_any_value_of_any_option_is_used_or_refused(family: str, name: str, value: Any) -> None:
    options = {name: value}
    resolves_or_says_why({"model": family, "preset": "small", "options": options})
    recurrence = {"recurrence": options}
    resolves_or_says_why({"model": family, "preset": "small", "options": recurrence})


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({}, "no model is named"),
        ({"model": "cnn-lstm", "learning_rate": 1}, "unknown setting 'learning_rate'"),
        ({"model": "cnn-lstm", "lr": "fast"}, "lr must be a number above 0, not 'fast'"),
        (
            {"model": "cnn-lstm", "epochs": 1.5},
            "epochs must be a whole number of at least 1, not 1.5",
        ),
        ({"model": "cnn-lstm", "flip": 1}, "flip must be true or false, not 1"),
        ({"model": "cnn-lstm", "lr": 0.0}, "lr must be a number above 0"),
        ({"model": "cnn-lstm", "optimizer": "adamv"}, "did you mean 'adam"),
        ({"model": "cnn-lstm", "schedule": "cosin"}, "did you mean 'cosine'"),
        ({"model": "cnn-lstm", "loss": "hinge"}, "unknown loss"),
        ({"model": "cnn-lstm", "metric": "top-1"}, "did you mean 'top1'"),
        ({"model": "cnn-lstm", "warmup": 1.0}, "warmup must be a number of at least 0 and below 1"),
        ({"model": "cnn-lstm", "crop": 300}, "crop 300 is larger"),
        ({"model": ["x"]}, "model must be a string, not \\['x'\\]"),
        ({"model": "cnn-lstm", "preset": 5}, "preset must be a string, not 5"),
        ({"model": "cnn-lstm", "weights": 5}, "weights must be a string"),
        ({"model": "cnn-lstm", "options": 5}, "options must be a table, not 5"),
        ({"model": "cnn-lstm", "fps": "abc"}, "fps must be a number above 0, not 'abc'"),
        ({"model": "cnn-lstm", "mean": 1}, "mean must be a list of 3, each a number, not 1"),
        ({"model": "cnn-lstm", "schedule": 5}, "schedule must be one of cosine, step"),
        ({"model": "cnn-lstm", "precision": 5}, "precision must be one of auto, fp32"),
        ({"model": "cnn-lstm", "metric": 5}, "metric must be one of top1"),
        ({"model": "cnn-lstm", "layout": "CTHW"}, "unknown setting 'layout'"),
        ({"model": "cnn-lstm", "momentum": 7}, "momentum must be a number of at least 0 and below"),
        ({"model": "cnn-lstm", "lr": float("inf")}, "lr must be a number above 0, not inf"),
        ({"model": "cnn-lstm", "lr": 10**400}, "lr must be a number above 0, not 1000"),
        ({"model": "cnn-lstm", "lr": 1 << 99999}, "not a number too long to print"),
        ({"model": "cnn-lstm", "seed": 2**63}, "seed must be a whole number"),
        ({"model": "cnn-lstm", "options": {"backbone": 5}}, "backbone must be a string, not 5"),
        ({"model": "cnn-lstm", "options": {"num_classes": 5}}, "cnn-lstm has no 'num_classes'"),
        ({"model": "cnn-lstm", "options": {"recurrence": 5}}, "recurrence must be a table"),
        ({"model": "vivit", "options": {"dim": 50}}, "dim must be a multiple of the number of"),
        ({"model": "cnn-lstm", "options": {"hidden": 3}}, "cnn-lstm has no 'hidden'"),
        (
            {"model": "cnn-lstm", "options": {"recurrence": {"width": 3}}},
            "recurrence of cnn-lstm has no 'width'",
        ),
    ],
)
def test_wrong_settings_are_told(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe.resolve(given_)


def test_a_run_from_before_settings_were_renamed_is_read(tmp_path: Path) -> None:
    old = tmp_path / "recipe.toml"
    old.write_text('model = "cnn-lstm"\noptimiser = "sgd"\nlayout = "TCHW"\n')
    recipe = Recipe.resolve(recipes.read(old))
    assert recipe.optim.optimizer == "sgd"
    assert "optimiser" not in recipe.flat()
    facts = {"data": "set", "scheme": "none", "classes": ["a"], "digest": "x", "world": 2}
    (tmp_path / "run.json").write_text(json.dumps({**facts, "dealt_by": "grouped"}))
    found = run_folder.read_facts(tmp_path, run_folder.TO_RESUME)
    assert (found.world_size, found.split_by) == (2, "grouped")
