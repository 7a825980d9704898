"""Probes: features that are computed once and kept, and the ordinary runs that come of them."""

import csv
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import engine
from dali_pipelines.augment import Augment
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from dali_pipelines.spec import ClipSpec
from engine.data import manifest, splits
from engine.data.loading import make_loader
from engine.data.samples import samples_of
from engine.errors import UserError
from engine.models import registry
from engine.models.probe import Encoder, Probe
from engine.training import checkpoint
from engine.training.fabric import make_fabric
from engine.training.feature_store import FeatureStore, key_of
from engine.training.features import FeatureSource, make_encoder, views_of
from engine.training.finished import read_finished

SPEC = ClipSpec(num_frames=4, resize=40, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn-lstm": ("cnn-lstm", {"centered": False}),
    "cnn-lstm, centered": ("cnn-lstm", {}),
    "cnn-lstm, attentive": ("cnn-lstm", {"head": "attentive"}),
    "cnn-lstm, attentive, pooled": ("cnn-lstm", {"head": "attentive", "reduction": 0}),
    "cnn-lstm, linear": ("cnn-lstm", {"head": "linear", "centered": False}),
    "cnn-birnn": ("cnn-birnn", {"centered": False}),
    "vit-lstm": ("vit-lstm", {}),
    "timesformer": ("timesformer", {}),
    "timesformer, joint": ("timesformer", {"attention": "joint"}),
    "vivit": ("vivit", {}),
    "torchvision": ("torchvision", {}),
    "x3d": ("x3d", {}),
    "vivit, joint": ("vivit", {"kind": "joint", "convolutional_stem": False}),
}


def model_of(family: str = "cnn-lstm", *, num_classes: int = 3, seed: int = 0, **options: Any):
    spec, _ = registry.ModelSpec.of_preset(family, "small", num_classes, **options)
    torch.manual_seed(seed)
    return registry.build(spec, SPEC).eval(), SPEC


@pytest.fixture(scope="module")
def dataset(synth_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(synth_master, tmp_path_factory.mktemp("probe") / "set"))
    splits.apply(manifest.load(root), splits.Grouped(seed=0))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone's, as they are published."""
    return saved_weights(tmp_path_factory.mktemp("weights") / "backbone.safetensors", "backbone.")


def saved_weights(path: Path, prefix: str = "") -> Path:
    weights = model_of()[0].state_dict()
    chosen = {name: value for name, value in weights.items() if name.startswith(prefix)}
    save_file({name: value.contiguous() for name, value in chosen.items()}, path)
    return path


def settings(weights: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "model": "cnn-lstm", "preset": "small", "num_frames": 4, "resize": 40, "crop": 32,
        "weights": str(weights), "probe": "recurrent", "probe_views": 2, "epochs": 3,
        "device": "cpu",
    }  # fmt: skip
    return given | changes


def logged(data: Path, out: Path, cache: Path, given: dict[str, Any]) -> tuple[Any, str]:
    lines: list[str] = []
    trained = engine.train(data, out, cache=cache, log=lines.append, **given)
    return trained, "\n".join(lines)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_its_encoder_and_its_head(name: str) -> None:
    family, options = FAMILIES[name]
    model, clip = model_of(family, **options)
    clips = torch.randn(3, *clip.shape)
    with torch.no_grad():
        features = Encoder(model)(clips)
        logits = getattr(model, "classify", model.head)(features)
        torch.testing.assert_close(logits, model(clips))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_probe_becomes_a_plain_model(name: str) -> None:
    """Standardization is folded into the first layer of the head, so nothing is added."""
    family, options = FAMILIES[name]
    model, clip = model_of(family, **options)
    clips = torch.randn(3, *clip.shape)
    with torch.no_grad():
        features = Encoder(model)(clips) * 3 + 1
        probe = Probe(model, features).eval()
        expected = probe(Encoder(model)(clips))
        plain, _ = model_of(family, seed=1, **options)
        plain.load_state_dict(probe.folded_weights())
        torch.testing.assert_close(plain(clips), expected, rtol=1e-3, atol=1e-3)


def test_only_the_head_of_a_probe_is_trained() -> None:
    model, clip = model_of()
    features = Encoder(model)(torch.randn(4, *clip.shape)).detach()
    probe = Probe(model, features).train()
    trained = {name for name, weight in probe.named_parameters() if weight.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"recurrent", "head"}
    assert not model.backbone.training
    assert model.recurrent.training


def source_of(model: torch.nn.Module, folder: Path, num_views: int) -> FeatureSource:
    fabric, _ = make_fabric("cpu", 1, 1, "fp32")
    return FeatureSource(
        FeatureStore(folder, key_of(model.state_dict(), {"clip": SPEC})),
        num_views=num_views,
        new_loader=lambda rows, config: make_loader("dali", rows, config),
        make_encode=lambda num_clips: make_encoder(
            Encoder(model), SPEC, fabric, precision="fp32", num_clips=num_clips, log=print
        ),
    )


@pytest.mark.parametrize("num_views", [1, 3])
def test_kept_features_are_those_of_the_clips(
    dataset: Path, tmp_path: Path, num_views: int
) -> None:
    """Of the test view, and of views that the augmentation draws, which all differ."""
    model, _ = model_of()
    rows = samples_of(manifest.load(dataset), "val")[0]
    config = LoaderConfig(spec=SPEC, batch_size=4, augment=Augment(flip=False), seed=7)
    views = views_of(rows, num_views)
    first = source_of(model, tmp_path, num_views)
    computed = first.loader(views, config).features
    assert (first.num_computed, first.num_found) == (len(views), 0)
    again = source_of(model, tmp_path, num_views)
    kept = again.loader(views, config).features
    assert (again.num_computed, again.num_found) == (0, len(views))
    assert all(torch.equal(kept[key], computed[key]) for key in kept)
    for view in range(num_views):
        plain = dataclasses.replace(config, augment=None) if view == 0 else config
        seen = [dataclasses.replace(row, repeat=view) for row in rows]
        for batch in make_loader("dali", seen, plain):
            with torch.no_grad():
                fresh = model.encode(batch.clips)
            for id_, features in zip(batch.ids.tolist(), fresh, strict=True):
                torch.testing.assert_close(kept[id_, view], features, rtol=1e-3, atol=1e-3)
    if num_views > 1:
        assert not torch.allclose(kept[rows[0].id, 1], kept[rows[0].id, 2])


@pytest.mark.slow
def test_openvino_computes_the_same_features(dataset: Path, monkeypatch) -> None:
    pytest.importorskip("openvino")
    from engine.training import features as module

    model, _ = model_of()
    fabric, _ = make_fabric("cpu", 1, 1, "fp32")
    clips = torch.randint(0, 256, (3, *SPEC.shape), dtype=torch.uint8)
    lines: list[str] = []
    for few_enough in (0, module.NUM_WORTH_COMPILING):
        encode = make_encoder(
            Encoder(model), SPEC, fabric, precision="fp32", num_clips=few_enough, log=lines.append
        )
        lines.append(encode(clips))  # type: ignore[arg-type]
    assert "PyTorch" in lines[0]
    assert "OpenVINO" in lines[2]
    torch.testing.assert_close(lines[1], lines[3], rtol=1e-3, atol=1e-3)


def test_a_damaged_feature_is_missing(tmp_path: Path, dataset: Path) -> None:
    row = samples_of(manifest.load(dataset), "val")[0][0]
    store, config = FeatureStore(tmp_path, "key"), LoaderConfig(spec=SPEC)
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    store.put(row, config, features)
    found = store.get(row, config)
    assert found is not None
    assert np.array_equal(found, features)
    (file,) = (tmp_path / "key").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert store.get(row, config) is None
    file.write_bytes(content[:2])
    assert store.get(row, config) is None


def test_a_changed_clip_or_view_has_other_features(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    path.write_bytes(b"one")
    row, store = Sample(id=1, path=path, label=0, frames=9), FeatureStore(tmp_path, "key")
    plain = LoaderConfig(spec=SPEC)
    augmented = dataclasses.replace(plain, augment=Augment())
    store.put(row, plain, np.zeros(1, np.float32))
    store.put(row, augmented, np.ones(1, np.float32))
    assert store.get(dataclasses.replace(row, id=2, repeat=4), plain) is not None
    others = [
        (dataclasses.replace(row, repeat=1), augmented),
        (dataclasses.replace(row, id=2), augmented),
        (row, dataclasses.replace(augmented, seed=1)),
        (row, dataclasses.replace(augmented, augment=Augment(flip=False))),
        (dataclasses.replace(row, frames=8), plain),
    ]
    assert [store.get(*each) for each in others] == [None] * len(others)
    path.write_bytes(b"other")
    assert store.get(row, plain) is None


@pytest.mark.slow
def test_a_probe_is_an_ordinary_run(dataset: Path, weights: Path, tmp_path: Path) -> None:
    """It evaluates to its own validation figures, and its backbone is that of the weights."""
    trained, log = logged(dataset, tmp_path / "run", tmp_path / "cache", settings(weights))
    assert trained.finished
    assert trained.best is not None
    assert ", 0 from " in log
    evaluated = engine.evaluate(tmp_path / "run", split="val")
    figures = evaluated.levels["video"]
    assert figures["top1"] == pytest.approx(trained.best_row["val_top1"])
    assert figures["f1_macro"] == pytest.approx(trained.best_row["val_f1"])
    saved, given = load_file(trained.best / "model.safetensors"), load_file(weights)
    assert {name for name in saved if name.startswith("backbone.")} == given.keys()
    assert [name for name in given if not torch.equal(saved[name], given[name])] == []

    recipe = tmp_path / "run" / "recipe.toml"
    again, log = logged(dataset, tmp_path / "again", tmp_path / "cache", {"recipe": recipe})
    assert "features: 0 views computed" in log
    assert again.best is not None
    assert (again.best / "model.safetensors").read_bytes() == (
        trained.best / "model.safetensors"
    ).read_bytes()


def test_a_probe_whose_best_epoch_is_an_early_one_is_finished(
    dataset: Path, weights: Path, tmp_path: Path
) -> None:
    given = settings(weights, lr=3.0, warmup=0.0)  # after the first epoch the loss only grows
    trained, _ = logged(dataset, tmp_path / "run", tmp_path / "cache", given)
    assert trained.best_row["epoch"] < 3
    finished = read_finished(tmp_path / "run")
    assert finished is not None
    assert [row["epoch"] for row in finished.history] == [1, 2, 3]
    (tmp_path / "run" / "history.csv").write_text(
        "".join((tmp_path / "run" / "history.csv").read_text().splitlines(keepends=True)[:3])
    )
    assert read_finished(tmp_path / "run") is None  # it was stopped after two


@pytest.mark.slow
def test_other_weights_or_clips_compute_new_features(
    dataset: Path, weights: Path, tmp_path: Path
) -> None:
    cache, other = tmp_path / "cache", tmp_path / "other.safetensors"
    changed = load_file(weights)
    changed["backbone.network.conv_stem.weight"] *= 1.01
    save_file(changed, other)
    first, _ = logged(dataset, tmp_path / "first", cache, settings(weights, epochs=1))
    num_found = {}
    for name, given in {
        "weights": settings(other, epochs=1),
        "size": settings(weights, epochs=1, resize=48, crop=48),
        "frames": settings(weights, epochs=1, num_frames=5),
        "backbone": settings(weights, epochs=1, options={"reduction": 4}),
        "seed": settings(weights, epochs=1, seed=1),
        "head": settings(weights, epochs=1, options={"recurrence": {"hidden": 32}}),
        "views": settings(weights, epochs=1, probe_views=3),
    }.items():
        _, log = logged(dataset, tmp_path / name, cache, given)
        num_found[name] = int(log.partition("views computed, ")[2].split()[0])
    rows = csv.DictReader((first.path / "manifest.csv").open())
    parts = [row["split"] for row in rows]
    num_train, num_val = parts.count("train"), parts.count("val")
    assert num_found == {
        "weights": 0, "size": 0, "frames": 0, "backbone": 0, "seed": num_train + num_val,
        "head": 2 * num_train + num_val, "views": 2 * num_train + num_val,
    }  # fmt: skip


@pytest.mark.slow
def test_the_head_is_new_even_if_the_weights_have_one(dataset: Path, tmp_path: Path) -> None:
    backbone = saved_weights(tmp_path / "backbone.safetensors", "backbone.")
    whole = saved_weights(tmp_path / "whole.safetensors")
    runs = [
        logged(dataset, tmp_path / path.stem, tmp_path / "cache", settings(path, epochs=1))[0]
        for path in (backbone, whole)
    ]
    first, second = (load_file(run.best / "model.safetensors") for run in runs)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("kind", ["attentive", "linear"])
def test_other_heads_are_trained_too(
    dataset: Path, weights: Path, tmp_path: Path, kind: str
) -> None:
    given = settings(weights, probe=kind, epochs=2)
    trained, _ = logged(dataset, tmp_path / "run", tmp_path / "cache", given)
    assert trained.recipe.options["head"] == kind
    figures = engine.evaluate(tmp_path / "run", split="val").levels["video"]
    assert figures["top1"] == pytest.approx(trained.best_row["val_top1"])


def test_a_transformer_has_a_linear_probe(dataset: Path, tmp_path: Path) -> None:
    model, _ = model_of("timesformer")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    given = settings(tmp_path / "model.safetensors", model="timesformer", probe="linear", epochs=2)
    trained, _ = logged(dataset, tmp_path / "run", tmp_path / "cache", given)
    figures = engine.evaluate(tmp_path / "run", split="val").levels["video"]
    assert figures["top1"] == pytest.approx(trained.best_row["val_top1"])


@pytest.mark.slow
def test_a_killed_probe_keeps_its_features(dataset: Path, weights: Path, tmp_path: Path) -> None:
    out, cache = tmp_path / "run", tmp_path / "cache"
    command = [
        sys.executable, "-m", "engine", "train", "--data", dataset, "--model", "cnn-lstm",
        "--preset", "small", "--frames", 4, "--set", "resize=40", "--set", "crop=32", "--weights",
        weights, "--probe", "recurrent", "--probe-views", 4, "--epochs", 2, "--cache", cache,
        "--out", out, "--batch-size", 4,
    ]  # fmt: skip
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(cache.glob("features/*/*.features"))) < 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_kept = len(list(cache.glob("features/*/*.features")))
    assert num_kept >= 8
    resumed = subprocess.run(
        [*map(str, [*command[:4], "--out", out, "--resume", "--cache", cache])],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert f"views computed, {num_kept} from" in resumed.stderr
    assert checkpoint.best_of(out) is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recurrent", "attentive"])
def test_a_probe_labels_as_it_predicts(
    run_engine, dataset: Path, weights: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "run"
    trained, _ = logged(dataset, out, tmp_path / "cache", settings(weights, probe=kind))
    assert trained.best is not None
    videos = sorted({dataset / clip.path for clip in manifest.load(dataset).clips})[:6]
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, video in enumerate(videos):
        (folder / f"{number}{video.suffix}").write_bytes(video.read_bytes())
    result = run_engine("label", folder, "--model", out, "--out", tmp_path / "labels.csv")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "labels.csv").open() as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    predicted = engine.load(out).predict(sorted(folder.iterdir()))
    assert labels == [each.label for each in predicted]
    engine.compile(out, tmp_path / "artifact", cache=tmp_path / "built")
    compiled = engine.load(tmp_path / "artifact").predict(sorted(folder.iterdir()))
    assert labels == [each.label for each in compiled]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "none"}, "random weights see nothing: pass `weights`"),
        ({"mixup": 0.2}, "a probe has no `mixup`"),
        ({"probe": "spatial"}, "probe"),
        ({"model": "timesformer", "probe": "attentive"}, "pass `probe='linear'`"),
        ({"freeze_epochs": 1}, "a probe has no `freeze_epochs`"),
        ({"devices": 2}, "a probe trains in one process"),
        ({"probe_views": 0}, "probe_views"),
    ],
)
def test_settings_that_a_probe_lacks_are_refused(
    dataset: Path, weights: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        engine.train(dataset, tmp_path / "run", **settings(weights) | changes)
    assert not (tmp_path / "run").exists()
