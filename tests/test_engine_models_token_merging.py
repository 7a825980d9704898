"""Token merging keeps what it promises: means, sizes, places, and models that merge nothing."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_models import CLIP, FAMILIES, HF, KINDS, for_uint8, merged_of, model_of, uint8_clips
from torch import Tensor, nn

from engine.errors import UserError
from engine.models import merged_layers, timesformer
from engine.models.attention import Block
from engine.models.merged_model import require_tokens
from engine.models.registry import ModelSpec, build
from engine.models.token_merging import Merge, schedule, take
from trt.config import BatchRange
from trt.program import export, lowered


@given(
    num_tokens=st.integers(1, 2000), num_layers=st.integers(1, 24), share=st.floats(0, 0.9)
)  # fmt: skip
def test_a_schedule_merges_the_share_but_at_most_half_in_a_layer(
    num_tokens: int, num_layers: int, share: float
) -> None:
    counts = schedule(num_tokens, num_layers, share)
    left = num_tokens
    for count in counts:
        assert 0 <= count <= left // 2
        left -= count
    assert len(counts) == num_layers
    assert left >= num_tokens - round(num_tokens * share)
    if num_layers >= 12:
        assert left <= num_tokens - round(num_tokens * share) + 1
    assert schedule(num_tokens, num_layers, 0.0) == [0] * num_layers


def merged_twice(num_tokens: int, counts: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random tokens, and after two merges: tokens, sizes, places."""
    generator = torch.Generator().manual_seed(num_tokens)
    tokens = torch.randn(3, num_tokens, 5, generator=generator, dtype=torch.float64)
    first = Merge(num_tokens, counts[0], with_places=True)(tokens, tokens, None)
    second = Merge(num_tokens - counts[0], counts[1], with_places=True)(
        first.tokens_BMD, first.tokens_BMD, first.sizes_BM
    )
    return tokens, second.tokens_BMD, second.sizes_BM, take(second.places_BN, first.places_BN)


@pytest.mark.parametrize(("num_tokens", "counts"), [(16, (5, 3)), (17, (8, 4)), (9, (1, 4))])
def test_merging_keeps_the_weighted_mean(num_tokens: int, counts: tuple[int, int]) -> None:
    tokens, merged, sizes, places = merged_twice(num_tokens, counts)
    assert merged.shape[1] == num_tokens - sum(counts)
    assert torch.equal(sizes.sum(dim=1), torch.full((3,), float(num_tokens)))
    sums = (merged * sizes[..., None]).sum(dim=1)
    assert torch.allclose(sums, tokens.sum(dim=1), atol=1e-5)
    for clip in range(3):  # each token is the mean of those that it stands for
        for place in range(merged.shape[1]):
            inside = places[clip] == place
            assert int(inside.sum()) == int(sizes[clip, place])
            mean = tokens[clip][inside].mean(dim=0)
            assert torch.allclose(merged[clip, place], mean, atol=1e-6)
    restored = take(merged, places)
    assert torch.allclose(restored.mean(dim=1), tokens.mean(dim=1), atol=1e-6)


def test_the_most_similar_tokens_are_merged() -> None:
    keys = torch.eye(8)[None].repeat(2, 1, 1)
    keys[0, 4] = keys[0, 1] * 3  # of the same direction
    keys[1, 0], keys[1, 6] = keys[1, 3], keys[1, 3]
    places = Merge(8, 1, with_places=True)(keys, keys, None).places_BN
    assert places[0, 4] == places[0, 1]
    assert len(places[0].unique()) == len(places[1].unique()) == 7
    places = Merge(8, 2, with_places=True)(keys, keys, None).places_BN
    assert places[1, 0] == places[1, 6] == places[1, 3]


def randomized(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.3)
    return module.eval()


@torch.no_grad()
def test_merged_equal_tokens_give_what_they_gave_apart() -> None:
    blocks = [randomized(Block(16, 2, 2.0)), randomized(Block(16, 2, 2.0))]
    tokens = torch.randn(2, 8, 16).repeat_interleave(2, dim=1)
    prefix = torch.randn(2, 1, 16)
    tokens = torch.cat([prefix, tokens], dim=1)
    stack = merged_layers.MergedLayers(
        [
            merged_layers.OurLayer(blocks[0], Merge(16, 8, with_places=True), num_prefix=1),
            merged_layers.OurLayer(blocks[1], None, num_prefix=1),
        ],
        restores=True,
    )
    expected = blocks[1](blocks[0](tokens))
    assert torch.allclose(stack(tokens), expected, atol=1e-5)


@torch.no_grad()
def test_merged_equal_places_give_what_they_gave_apart() -> None:
    blocks = [randomized(timesformer.DividedBlock(16, 2, 2.0, 0.0, 0.0)) for _ in range(2)]
    patches = torch.randn(2, 4, 8, 16).repeat_interleave(2, dim=2)
    cls = torch.randn(2, 1, 16)
    layers = [
        merged_layers.DividedLayer(blocks[0], Merge(16, 8)),
        merged_layers.DividedLayer(blocks[1], None),
    ]
    expected_cls, expected = blocks[1](*blocks[0](cls, patches))
    found_cls, found = merged_layers.DividedLayers(layers)(cls, patches)
    assert torch.allclose(found_cls, expected_cls, atol=1e-5)
    assert found.shape == (2, 4, 8, 16)
    assert torch.allclose(found.sum(dim=2) * 2, expected.sum(dim=2), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_merges_nothing_is_the_model(kind: str) -> None:
    """And one that merges gives other, finite logits, independent of the other clips."""
    model = model_of(kind)
    clips = torch.randn(3, *CLIP.shape)
    expected = model(clips)
    scale = expected.abs().max()
    assert (merged_of(model, 1e-9)(clips) - expected).abs().max() < 1e-5 * scale
    merged = merged_of(model, 0.6)
    found = merged(clips)
    assert found.isfinite().all()
    assert (found - expected).abs().max() > 1e-3 * scale
    assert (merged(clips[1:2]) - found[1:2]).abs().max() < 1e-4 * scale
    assert torch.equal(model(clips), expected)  # the model itself is as it was


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", FAMILIES)
def test_it_is_exported_with_a_dynamic_batch(kind: str) -> None:
    model = for_uint8(merged_of(model_of(kind), 0.6))
    clips = uint8_clips(5)
    program = export(model, clips[:1], BatchRange()).module()
    for count in (1, 5):
        expected = model(clips[:count])
        assert (program(clips[:count]) - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_low_precision_is_near_on_average(kind: str, precision: str) -> None:
    """On average, because rounded keys may merge other tokens."""
    model = for_uint8(merged_of(model_of(kind), 0.6))
    clips = uint8_clips(4)
    expected, found = model(clips), lowered(model, precision)(clips)
    assert (found - expected).abs().mean() < 0.05 * expected.abs().max()


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("cnn-lstm", {}),
    ("x3d", {}),
    ("torchvision", {}),
    ("hf", HF["vjepa2"]),
    ("hf", HF["videoprism_vision_model"]),
    ("vit-lstm", {"backbone": "test_resnet", "reduction": 0}),
]


@pytest.mark.parametrize(("family", "options"), REFUSED)
def test_a_model_without_tokens_is_refused(family: str, options: dict[str, Any]) -> None:
    model = build(ModelSpec.of_preset(family, "small", 5, **options)[0], CLIP)
    with pytest.raises(UserError, match=rf"needs a transformer with tokens .* not {family}"):
        require_tokens(model, family)
