"""Classifiers of `transformers`: read from checkpoints as their own files say, and like theirs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from artifacts import compiled
from hf_configs import CONFIGS

import trt
from benchmarks.stages.model import count_flops
from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.models import freezing, hf, registry, weights
from engine.training.optim import depths_of
from engine.training.recipe import Recipe
from trt.config import Precision, Target
from trt.program import Uint8Input

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def checkpoint(kind: str, folder: Path, num_classes: int = 7) -> Any:
    """Save a checkpoint as `transformers` does, with another normalization than usual."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind], num_labels=num_classes)
    network = transformers.AutoModelForVideoClassification.from_config(config).eval()
    for name, weight in network.named_parameters():
        if "position" in name or "time_emb" in name:  # they begin with zeros
            torch.nn.init.normal_(weight)
    network.save_pretrained(folder)
    processor = transformers.VideoMAEImageProcessor(
        size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64},
        image_mean=list(MEAN), image_std=list(STD),
    )  # fmt: skip
    processor.save_pretrained(folder)
    return network


def build(kind: str, num_classes: int = 7, *, frames: int = 8, size: int = 64) -> hf.HfClassifier:
    options = hf.Options(config={"model_type": kind, **CONFIGS[kind]})
    return hf.build(options, num_frames=frames, size=size, num_classes=num_classes).eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_checkpoint_gives_what_it_gives_to_transformers(kind: str, tmp_path: Path) -> None:
    network = checkpoint(kind, tmp_path)
    recipe = Recipe.resolve({"model": "hf", "weights": str(tmp_path)})
    assert (recipe.clip.num_frames, recipe.clip.resize, recipe.clip.crop) == (8, 72, 64)
    assert (recipe.clip.mean, recipe.clip.std) == (MEAN, STD)
    model = registry.build(recipe.model_spec(7), recipe.clip).eval()
    report = weights.load(model, str(tmp_path))
    assert not report.new_head
    assert not report.interpolated
    clips = torch.randn(2, *recipe.clip.shape)
    with torch.no_grad():
        expected = network(clips).logits.flatten(1)
        assert torch.allclose(model(clips), expected, atol=1e-5)
    again = registry.ModelSpec.from_dict(json.loads(json.dumps(recipe.model_spec(7).to_dict())))
    assert again == recipe.model_spec(7)


@pytest.mark.parametrize("kind", CONFIGS)
def test_positions_are_interpolated_and_the_head_is_new(kind: str, tmp_path: Path) -> None:
    checkpoint(kind, tmp_path)
    model = build(kind, num_classes=3, frames=12, size=96)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    report = weights.load(model, str(tmp_path))
    assert {name.rpartition(".")[0] for name in report.new_head} == {"network.classifier"}
    assert not report.missing
    assert bool(report.interpolated) == (kind not in ("videomae", "vjepa2"))
    for name in report.interpolated:
        assert not torch.equal(model.state_dict()[name], before[name])
    with torch.no_grad():
        assert model(torch.randn(2, 12, 3, 96, 96)).isfinite().all()


def test_a_fixed_table_is_interpolated_too() -> None:
    """VideoMAE's table depends on the number of tokens: another one would mean other places."""
    published, larger = build("videomae"), build("videomae", frames=16, size=128)
    old = published.network.videomae.embeddings.position_embeddings.unflatten(1, (4, 4, 4))
    new = larger.network.videomae.embeddings.position_embeddings.unflatten(1, (8, 8, 8))
    means = new.unflatten(1, (4, 2)).unflatten(3, (4, 2)).unflatten(5, (4, 2)).mean(dim=(2, 4, 6))
    assert (means - old).abs().mean() < 0.1
    plain = transformers.models.videomae.modeling_videomae.get_sinusoid_encoding_table(512, 48)
    assert (plain.view_as(new) - new).abs().mean() > 0.3


@pytest.mark.parametrize("kind", CONFIGS)
def test_poolers_are_trained_with_a_frozen_network(kind: str) -> None:
    model = build(kind)
    freezing.set_frozen(model, True)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert "network.classifier.weight" in trained
    pooled = any(name.startswith(("network.pooler.", "network.head.")) for name in trained)
    assert pooled == (kind in ("vjepa2", "videoprism_vision_model"))
    assert not freezing.is_new("backbone.network.head.norm.weight")  # of an image backbone
    assert len(trained) < len(list(model.parameters())) / 2 + 10
    model(torch.randn(2, 8, 3, 64, 64)).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_it_is_compiled_in_each_precision(kind: str, tmp_path: Path) -> None:
    model = Uint8Input(build(kind), mean=MEAN, std=STD).eval()
    clips = torch.randint(0, 256, (16, 8, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(clips)
    spread = float(expected.std())
    precisions: dict[Precision, float] = {"fp32": 0.01, "bf16": 0.1, "int8": 0.5}
    for precision, tolerance in precisions.items():
        folder = compiled(
            tmp_path / precision, model, clips, "openvino", Target(precision=precision)
        )
        found = trt.load(folder)(clips[:9])
        assert (found - expected[:9]).abs().mean() < tolerance * spread, precision


@pytest.mark.slow
def test_a_run_needs_no_checkpoint(tmp_path: Path, run_engine: Any) -> None:
    source, data, run = tmp_path / "videomae", tmp_path / "set", tmp_path / "run"
    checkpoint("videomae", source)
    run_engine("data", "synth", data, "--classes", 2, "--clips-per-class", 8)
    run_engine("data", "split", data, "--scheme", "grouped")
    trained = run_engine(
        "train", "--data", data, "--model", "hf", "--weights", source, "--out", run,
        "--epochs", 1, "--batch-size", 4, "--freeze-epochs", 0,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "weights loaded" in trained.stdout + trained.stderr
    shutil.rmtree(source)
    assert run_engine("evaluate", run).returncode == 0
    labelled = run_engine("label", data / "videos", "--model", run, "--out", tmp_path / "a.csv")
    assert labelled.returncode == 0, labelled.stderr


@pytest.mark.parametrize("kind", CONFIGS)
def test_later_layers_learn_faster(kind: str) -> None:
    depths = depths_of([name for name, _ in build(kind).named_parameters()])
    assert depths["network.classifier.weight"] == max(depths.values()) >= 3
    patches = [depth for name, depth in depths.items() if "patch_embeddings" in name]
    assert set(patches) == {0}


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    checkpoint("videomae", tmp_path / "right")
    (tmp_path / "right" / "preprocessor_config.json").unlink()
    for source, words in (
        (tmp_path / "right", "has no preprocessor_config.json"),
        (tmp_path, "no config that transformers reads"),
        (tmp_path / "none", "there is no checkpoint"),
    ):
        with pytest.raises(UserError, match=words):
            Recipe.resolve({"model": "hf", "weights": str(source)})
    with pytest.raises(UserError, match=r"no model type 'bert'; it has timesformer, videomae"):
        hf.Options(config={"model_type": "bert"})
    with pytest.raises(UserError, match="less than one token"):
        build("videomae", frames=1)


def test_presets_are_what_is_published() -> None:
    for name, preset in registry.PRESETS["hf"].items():
        spec, clip = registry.ModelSpec.of_preset("hf", name, 400)
        config = hf._config(spec.options.config)
        fields = hf.TYPES[config.model_type]
        if name not in ("small", "vjepa2"):  # the published V-JEPA 2 has fewer frames
            assert clip.num_frames == getattr(config, fields.frames)
            assert clip.crop == getattr(config, fields.size)
        assert isinstance(preset.clip, ClipSpec)


@pytest.mark.parametrize("kind", CONFIGS)
def test_its_operations_are_counted(kind: str) -> None:
    model = build(kind)
    next(model.parameters()).requires_grad_(False)
    before = [weight.requires_grad for weight in model.parameters()]
    assert count_flops(model, ClipSpec(num_frames=8, resize=72, crop=64)) > 1e6
    assert [weight.requires_grad for weight in model.parameters()] == before
