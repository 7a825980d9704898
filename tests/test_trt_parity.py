"""The gate's figures, and the search for layers that break in a low precision."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trt.parity import Budget, answers, compare
from trt.precision_search import Layer, candidates, rank, widen
from trt.program import Uint8Input, lowered


def parity(reference: np.ndarray, found: np.ndarray, labels: np.ndarray, **budget: float):
    return compare(reference, found, labels, budget=Budget(**budget), proved_on="here")


def test_the_figures_are_what_they_say() -> None:
    reference = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [3, 0, 0]], np.float32)
    found = reference.copy()
    found[3] = [1, 2.5, 0]
    result = parity(reference, found, np.array([0, 1, 2, 0]))
    assert result.max_error == 2.5
    assert result.mean_error == pytest.approx(4.5 / 12)
    assert (result.agreement, result.accuracy, result.reference_accuracy) == (0.75, 0.75, 1.0)
    assert result.drop == 0.25
    assert not result.passed
    assert parity(reference, found, np.array([0, 1, 2, 0]), agreement=0.7, drop=0.3).passed
    assert parity(reference, reference, np.array([2, 2, 2, 2])).passed  # right or wrong alike
    assert "75.00% of 4 clips" in result.in_words()


@given(st.integers(1, 40), st.integers(0, 2**16), st.floats(0, 2))
def test_agreement_and_drop_bound_each_other(num_clips: int, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(num_clips, 4)).astype(np.float32)
    found = (reference + noise * rng.normal(size=reference.shape)).astype(np.float32)
    result = parity(reference, found, rng.integers(4, size=num_clips))
    assert abs(result.drop) <= 1 - result.agreement + 1e-9
    assert result.mean_error <= result.max_error
    json.dumps(result.to_dict())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_agree_with_nothing(bad: float) -> None:
    reference = np.eye(3, dtype=np.float32)
    found = reference.copy()
    found[0, 0] = bad
    result = parity(reference, found, np.arange(3))
    assert result.agreement == result.accuracy == pytest.approx(2 / 3)
    assert result.max_error == np.inf


class Overflowing(nn.Module):
    """Right in fp32; `wide` leaves the range of fp16, and `narrow` brings its output back."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.wide = nn.Linear(8, 8)
        self.narrow = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.wide.weight.mul_(3e5)
            self.narrow.weight.div_(3e5)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        colors = clips_BTCHW.mean(dim=(1, 3, 4))
        return self.head(self.narrow(self.wide(self.first(colors).relu())))


@pytest.fixture
def overflowing() -> tuple[Uint8Input, Tensor]:
    torch.manual_seed(0)
    model = Uint8Input(Overflowing(), mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1)).eval()
    return model, torch.randint(0, 256, (16, 2, 3, 8, 8), dtype=torch.uint8)


def test_the_layer_that_overflows_is_found_and_keeping_it_helps(overflowing) -> None:
    model, clips = overflowing
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    ranked = rank(model, "fp16", clips)
    assert ranked[0].name == "wide"
    assert ranked[0].error == np.inf
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    with torch.no_grad():
        assert not lowered(model, "fp16")(clips).isfinite().all()
        fp32_layers = lowered(model, "fp16", ("wide", "narrow"))(clips)
        assert torch.allclose(fp32_layers, model(clips), atol=0.1)


@pytest.mark.parametrize("precision", ["bf16", "int8", "fp8"])
def test_every_layer_is_ranked_by_its_own_error(overflowing, precision: str) -> None:
    model, clips = overflowing
    ranked = rank(model, precision, clips)
    assert {each.name for each in ranked} == {"first", "wide", "narrow", "head"}
    assert [each.error for each in ranked] == sorted([each.error for each in ranked])[::-1]
    assert 0 < ranked[-1].error <= ranked[0].error < 10


class Sharp(nn.Module):
    """What breaks lies between its layers: a power that only fp32 holds."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(3, 4)

    def forward(self, values: Tensor) -> Tensor:
        return (self.inside(values) * 1e3).pow(2).log1p()


def test_a_module_that_breaks_between_its_layers_is_named_itself() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sharp = Sharp()
            self.head = nn.Linear(4, 4)

        def forward(self, clips: Tensor) -> Tensor:
            return self.head(self.sharp(clips.mean(dim=(1, 3, 4))))

    torch.manual_seed(0)
    model = Uint8Input(Model(), mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1)).eval()
    clips = torch.randint(0, 256, (4, 2, 3, 8, 8), dtype=torch.uint8)
    assert rank(model, "fp16", clips)[0].name == "sharp"
    assert candidates(model, "int8", clips[:1]) == ["sharp.inside", "head"]


def test_ever_more_layers_are_kept_but_never_all() -> None:
    layers = [Layer(name=str(number), kind="Linear", error=1.0) for number in range(9)]
    sizes = [len(fp32_layers) for fp32_layers in widen(layers)]
    assert sizes == [1, 2, 4, 8]
    assert list(widen(layers[:1])) == []


def test_a_damaged_layer_trips_the_gate(overflowing) -> None:
    model, clips = overflowing
    right = answers(model, clips.split(4))
    labels = right.argmax(axis=1)
    assert parity(right, answers(model, clips.split(5)), labels).passed
    with torch.no_grad():
        model.model.head.weight.mul_(-1)
    assert not parity(right, answers(model, clips.split(4)), labels).passed
