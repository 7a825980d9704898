"""`engine compile --merge-tokens`: recorded, refused where nothing can merge, and searched for."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from runs import random_run

import engine
from dali_pipelines.spec import ClipSpec
from engine.compilation import build
from engine.compilation.compile_source import CompileSource
from engine.compilation.merging_search import SHARES, strongest
from engine.compilation.request import CompileRequest
from engine.data import manifest
from engine.errors import RefusedError
from trt.artifact import check
from trt.config import ArtifactConfig, Target
from trt.parity import Budget, compare

CLIP = ClipSpec(num_frames=4, resize=64, crop=64)


def run_of(folder: Path, data: Path, family: str) -> Path:
    """A run on the dataset with random weights."""
    listed = manifest.load(data)
    run = random_run(folder, listed.class_names, family, clip=CLIP)
    dataclasses.replace(listed, root=run).save()
    facts = {"data": str(data.absolute()), "scheme": "grouped seed 0"}
    (run / "run.json").write_text(json.dumps(facts))
    return run


@pytest.fixture(scope="module")
def transformer(grouped_set, tmp_path_factory) -> Path:
    return run_of(tmp_path_factory.mktemp("transformer") / "run", grouped_set, "timesformer")


def request_of(run: Path, budget: Budget, *, share: float = 0.0, **changes) -> CompileRequest:
    target = Target(precision=changes.get("precision", "fp32"), merged_tokens=share)
    defaults = {
        "run": run, "data": None, "backend": "openvino", "precision": "fp32", "target": target,
        "budget": budget, "unproved": False, "num_proof_clips": 256, "num_calibration_clips": 4,
    }  # fmt: skip
    return CompileRequest(**{**defaults, **changes})


def undecided(request: CompileRequest) -> CompileSource:
    """The run, whose classes are about equally likely, so that small changes change labels."""
    source = CompileSource(request)
    head = source.model.model.head
    with torch.no_grad():
        logits = torch.from_numpy(source.predict_in_fp32(source.model, "Running"))
        head.bias.sub_(logits.mean(dim=0))
        deviation = logits.std(dim=0)
        head.weight.div_(deviation[:, None])
        head.bias.div_(deviation)
    return source


@pytest.fixture(scope="module")
def agreements(transformer) -> dict[float, float]:
    """Share of clips with the same label, for each share of merged tokens, in PyTorch."""
    source = undecided(request_of(transformer, Budget()))
    found = {}
    for share in SHARES:
        logits = source.predict_in_fp32(source.merged(share)[0], "Running")
        parity = compare(
            source.reference, logits, source.labels, budget=Budget(), proved_on="the CPU"
        )
        found[share] = parity.agreement
    return found


@pytest.mark.slow
def test_a_share_is_recorded_and_the_artifact_labels(transformer, run_engine, tmp_path) -> None:
    made = run_engine(
        "compile", transformer, "--merge-tokens", 0.5, "--accept-drift", 100,
        "--out", tmp_path / "fast", "--cache", tmp_path / "cache", "--backend", "openvino",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    words = "merging places in all frames: 16 before the first layer, 8 after the last"
    assert words in made.stdout
    assert "openvino in fp32 with 50% of the tokens merged: " in made.stdout
    assert check(tmp_path / "fast").target.merged_tokens == 0.5
    predictor = engine.load(tmp_path / "fast")
    assert predictor.runs_on == "cpu, openvino, fp32 with 50% of the tokens merged"
    source = CompileSource(request_of(transformer, Budget()))
    clips = source.proof[0].clips
    with torch.no_grad():
        expected = source.merged(0.5)[0](clips)
        plain = source.model(clips)
    assert torch.allclose(predictor(clips), expected, atol=1e-3)
    assert not torch.allclose(expected, plain, atol=1e-2)
    clip = manifest.load(source.clips[0].root).clips[0]
    assert predictor.predict(source.clips[0].root / clip.path).label in predictor.class_names


def test_no_merging_is_the_model_itself(transformer) -> None:
    source = CompileSource(request_of(transformer, Budget()))
    assert source.merged(0.0)[0] is source.folded


def test_an_artifact_from_before_merges_nothing(tmp_path) -> None:
    config = ArtifactConfig(
        backend="eager", asked="fp32", target=Target(), clip={}, model={}, class_names=[],
        source="", chosen_by="", key="", device="", versions={},
    )  # fmt: skip
    config.write(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["target"]["merged_tokens"]
    path.write_text(json.dumps(values))
    assert ArtifactConfig.read(tmp_path) == config


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.45, 0.5, 0.8, 0.9])
def test_the_strongest_share_is_found_and_kept(limit: float, tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    tried = []

    def attempt(share: float) -> ArtifactConfig | None:
        for path in stage.iterdir():
            path.unlink()
        (stage / "model").write_text(str(share))
        tried.append(share)
        if share > limit:
            return None
        return ArtifactConfig(
            backend="eager", asked="fp32", target=Target(merged_tokens=share), clip={}, model={},
            class_names=[], source="", chosen_by="", key="", device="", versions={},
        )  # fmt: skip

    config = strongest(attempt, stage)
    passing = [share for share in SHARES if share <= limit]
    assert len(tried) <= 4
    assert list(tmp_path.iterdir()) == [stage]
    if not passing:
        assert config is None
    else:
        assert config is not None
        assert config.target.merged_tokens == passing[-1]
        assert (stage / "model").read_text() == str(passing[-1])


@pytest.mark.slow
def test_the_search_takes_the_strongest_that_passes_the_check(
    transformer, agreements, tmp_path
) -> None:
    worst = min(agreements.values())
    assert worst < 1, "no share changes a label: the check has nothing to find"
    budget = Budget(agreement=(worst + 1) / 2, drop=1.0)
    request = request_of(transformer, budget, searches_merging=True)
    source, lines = undecided(request), list[str]()
    config = build.build(request, source, tmp_path, None, lines.append)
    share = config.target.merged_tokens
    verdicts = {value: agreements[value] >= budget.agreement for value in agreements}
    stronger = SHARES[SHARES.index(share) + 1 :] if share else SHARES
    assert config.parity["passed"]
    assert share == 0 or verdicts[share]
    assert not stronger or not verdicts[stronger[0]]
    assert any("parity check failed with" in line for line in lines)
    assert sum("merging places" in line for line in lines) in (3, 4)
    build.artifact.seal(tmp_path, dataclasses.replace(config, key=""))
    assert check(tmp_path).target.merged_tokens == share


@pytest.mark.slow
def test_a_search_that_finds_nothing_says_so(transformer, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(build, "strongest", lambda attempt, stage: None)
    request = request_of(transformer, Budget(), searches_merging=True)
    lines: list[str] = []
    config = build.build(request, CompileSource(request), tmp_path, None, lines.append)
    assert config.target.merged_tokens == 0
    assert "even with 10% of the tokens merged the check fails: none are merged" in lines


@pytest.mark.slow
def test_merging_that_fails_by_itself_is_refused_before_layers_are_searched(
    transformer, agreements, tmp_path
) -> None:
    share = min(agreements, key=lambda each: agreements[each])
    budget = Budget(agreement=1.0, drop=1.0)
    request = request_of(transformer, budget, share=share, precision="int8")
    lines: list[str] = []
    with pytest.raises(RefusedError, match=r"tokens merged .* by merging alone, in fp32"):
        build.build(request, undecided(request), tmp_path, None, lines.append)
    assert not any("most sensitive layers" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "share", "words"),
    [
        ("timesformer", "most", "--merge-tokens takes a share as in 0.6, or auto, not 'most'"),
        ("timesformer", "0.95", "--merge-tokens is a share from 0 to 0.9, or auto, not 0.95"),
        ("timesformer", "nan", "--merge-tokens is a share from 0 to 0.9, or auto, not nan"),
        ("cnn-lstm", "0.5", "--merge-tokens needs a transformer with tokens to merge"),
        ("cnn-lstm", "auto", "not cnn-lstm."),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    family, share, words, grouped_set, transformer, run_engine, tmp_path
) -> None:
    run = transformer if family == "timesformer" else run_of(tmp_path / "run", grouped_set, family)
    result = run_engine(
        "compile", run, "--merge-tokens", share, "--out", tmp_path / "fast",
        "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "fast").exists()
