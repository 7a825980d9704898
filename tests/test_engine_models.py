"""All families: equal to the libraries' own on the same weights, exportable, trainable."""

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from torch import nn

from dali_pipelines.errors import SpecError
from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.models import registry, timesformer, vivit
from engine.models.attention import Stem
from engine.models.backbone import Backbone
from engine.models.recurrent import Recurrence
from engine.models.registry import FAMILIES, PRESETS, ModelSpec, build

ALL = list(FAMILIES)


def small(family: str, **overrides: Any) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    spec, clip = ModelSpec.of_preset(family, "small", 5, **overrides)
    clips = torch.randn(3, clip.num_frames, 3, clip.crop, clip.crop)
    return build(spec, clip).eval(), clips


@pytest.mark.parametrize("family", ALL)
def test_clips_become_logits_and_every_weight_learns(family: str) -> None:
    model, clips = small(family)
    model.train()
    logits = model(clips)
    assert logits.shape == (3, 5)
    torch.nn.functional.cross_entropy(logits, torch.arange(3)).backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not idle


@pytest.mark.slow
@pytest.mark.parametrize("family", ALL)
def test_every_family_exports_whole_with_a_dynamic_batch(family: str) -> None:
    model, clips = small(family)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (clips,), dynamic_shapes=({0: batch},), strict=False)
    for size in (1, 2, 5):
        other = torch.randn(size, *clips.shape[1:])
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(other), model(other), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ALL)
def test_a_spec_survives_being_saved(family: str) -> None:
    import json

    for preset in PRESETS[family]:
        spec, _ = ModelSpec.of_preset(family, preset, 7)
        assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("kind", ["divided", "joint"])
def test_timesformer_gives_the_logits_of_transformers(kind: Any) -> None:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    torch.manual_seed(0)
    theirs = TimesformerForVideoClassification(
        TimesformerConfig(
            image_size=64,
            patch_size=16,
            num_frames=4,
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=384,
            attention_type={"divided": "divided_space_time", "joint": "joint_space_time"}[kind],
            num_labels=5,
        )
    ).eval()
    for weight in theirs.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    options = timesformer.Options(dim=96, depth=3, heads=4, attention=kind)
    ours = timesformer.build(options, num_frames=4, size=64, num_classes=5).eval()
    ours.load_state_dict(timesformer.from_transformers(theirs.state_dict(), kind))
    clips = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(clips).logits
        assert expected.abs().max() > 0.5
        torch.testing.assert_close(ours(clips), expected, atol=1e-4, rtol=1e-4)


def test_space_alone_sees_no_order() -> None:
    options = timesformer.Options(dim=32, depth=2, heads=2, patch=16, attention="space")
    model = timesformer.build(options, num_frames=4, size=32, num_classes=3).eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(clips), model(clips.flip(1)))


def test_a_vit_backbone_gives_timms_features() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    ours = Backbone("test_vit", size=64).eval()
    ours.network.load_state_dict(theirs.state_dict())
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(pictures), theirs(pictures))


def test_joint_vivit_is_that_of_transformers() -> None:
    options = vivit.Options(dim=32, depth=2, heads=2, patch=16)
    model = vivit.build(options, num_frames=4, size=32, num_classes=3).eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        assert model(clips).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "reduction", "width"),
    [
        ("mobilenetv2_100", 0, 1280),
        ("mobilenetv2_035", 8, 16 * 8 * 8),
        ("torchvision:mobilenet_v2", 0, 1280),
        ("mnasnet_050", 0, 1280),
    ],
)
def test_backbones_have_the_width_they_say(name: str, reduction: int, width: int) -> None:
    backbone = Backbone(name, size=64, reduction=reduction)
    assert backbone.width == width
    assert backbone.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, width)


def test_a_frozen_backbone_stays_as_it_is() -> None:
    model, clips = small("cnn-lstm", freeze_backbone=True)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model.train()
    optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=0.1)
    model(clips).sum().backward()
    optimizer.step()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_recurrence(cell: Any, bidirectional: bool) -> None:
    recurrence = Recurrence(
        cell=cell, hidden=16, layers=2, bidirectional=bidirectional, dropout=0.1
    )
    model, clips = small("cnn-birnn", recurrence=recurrence)
    assert model(clips).shape == (3, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ModelSpec.of_preset("timesformr", "base", 3), "did you mean 'timesformer'"),
        (lambda: ModelSpec.of_preset("vivit", "hr", 3), "unknown preset of vivit 'hr'"),
        (lambda: ModelSpec.of_preset("vivit", "base", 3, width=3), "vivit has no 'width'"),
        (lambda: Backbone("mobilenetv2_1000", size=64), "did you mean 'mobilenetv2_100'"),
        (lambda: Backbone("torchvision:mobilenet_v9", size=64), "unknown torchvision model"),
        (lambda: Backbone("keras:vgg", size=64), "unknown source of backbones 'keras'"),
        (lambda: Backbone("mnasnet_050", size=64, reduction=7), "no feature map of reduction 7"),
        (
            lambda: Backbone("torchvision:mobilenet_v2", size=64, reduction=8),
            "needs a timm backbone",
        ),
        (lambda: Backbone("test_vit", size=8), "can't process frames of 8² pixels"),
        (lambda: Stem(8, 12, convolutional=True), "patch must be a power of 2"),
    ],
)
def test_wrong_names_are_told_with_the_right_ones(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_a_single_frame_has_no_mean_to_subtract() -> None:
    one = ClipSpec(num_frames=1, resize=32, crop=32)
    with pytest.raises(SpecError, match="leaves nothing of a single frame: set centered=false"):
        build(ModelSpec.of_preset("cnn-lstm", "small", 3)[0], one)
    build(ModelSpec.of_preset("cnn-lstm", "small", 3, centered=False)[0], one)


def test_the_registry_and_its_presets_agree() -> None:
    assert list(PRESETS) == list(registry.FAMILIES)
    assert all({"base", "small"} <= set(presets) for presets in PRESETS.values())


@pytest.mark.slow
def test_timm_is_imported_without_weights_and_biases() -> None:
    """Which would take time, and leave folders; a tracker imports it afterwards all the same."""
    code = (
        "import sys\n"
        "from engine.models.timm_loading import load_timm\n"
        "assert load_timm().is_model('mobilenetv2_100')\n"
        "assert 'wandb' not in sys.modules\n"
        "import importlib.util\n"
        "print(importlib.util.find_spec('wandb') is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(importlib.util.find_spec("wandb") is not None)
