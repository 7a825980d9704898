"""Weights from elsewhere: saved by the libraries here, loaded into our models."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.models import timesformer, vivit, weights
from engine.models.backbone import Backbone
from engine.models.registry import ModelSpec, build, portable


def timesformer_folder(folder: Path, **changes: Any) -> Any:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    torch.manual_seed(0)
    config: dict[str, Any] = {
        "image_size": 64, "patch_size": 16, "num_frames": 4, "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
        "num_labels": 5, **changes,
    }  # fmt: skip
    theirs = TimesformerForVideoClassification(TimesformerConfig(**config)).eval()
    for weight in theirs.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    theirs.save_pretrained(folder)
    return theirs


def ours(frames: int = 4, size: int = 64, classes: int = 5, **changes: Any) -> nn.Module:
    options = timesformer.Options(**{"dim": 32, "depth": 2, "heads": 4, **changes})
    return timesformer.build(options, num_frames=frames, size=size, num_classes=classes).eval()


def test_a_folder_of_transformers_gives_the_same_logits(tmp_path: Path) -> None:
    theirs = timesformer_folder(tmp_path)
    model = ours()
    report = weights.load(model, str(tmp_path))
    clips = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(clips), theirs(clips).logits, atol=1e-4, rtol=1e-4)
    assert not report.missing + report.unused + report.new_head + report.interpolated
    assert report.num_loaded == len(model.state_dict())


def test_a_pickled_state_is_read_without_running_code(tmp_path: Path) -> None:
    theirs = timesformer_folder(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert weights.load(ours(), str(tmp_path)).num_loaded == len(ours().state_dict())


def test_other_classes_get_a_new_head_and_the_report_says_so(tmp_path: Path) -> None:
    timesformer_folder(tmp_path)
    model = ours(classes=7)
    before = model.head.weight.clone()  # type: ignore[union-attr,operator]
    report = weights.load(model, str(tmp_path))
    assert sorted(report.new_head) == ["head.bias", "head.weight"]
    assert torch.equal(model.head.weight, before)  # type: ignore[arg-type]
    assert "2 new, for these classes (head." in report.describe()


@pytest.mark.parametrize(("frames", "size"), [(8, 64), (4, 96), (2, 32)])
def test_places_and_times_are_interpolated(frames: int, size: int, tmp_path: Path) -> None:
    theirs = timesformer_folder(tmp_path)
    model = ours(frames=frames, size=size)
    report = weights.load(model, str(tmp_path))
    assert set(report.interpolated) == {
        *(["times"] if frames != 4 else []),
        *(["positions"] if size != 64 else []),
    }
    state, source = model.state_dict(), theirs.timesformer.embeddings
    torch.testing.assert_close(state["positions"][:, :1], source.position_embeddings[:, :1])
    if frames == 8:  # halfway between neighbors, so the mean stays
        torch.testing.assert_close(state["times"].mean(1), source.time_embeddings.mean(1))
    assert model(torch.randn(1, frames, 3, size, size)).shape == (1, 5)


def test_published_weights_feed_the_joint_vivit(tmp_path: Path) -> None:
    from transformers import VivitConfig, VivitForVideoClassification

    torch.manual_seed(0)
    config = VivitConfig(
        image_size=32, num_frames=4, tubelet_size=[2, 16, 16], hidden_size=32,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, num_labels=3,
    )  # fmt: skip
    theirs = VivitForVideoClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    options = vivit.Options(dim=32, depth=2, heads=2, patch=16)
    model = vivit.build(options, num_frames=4, size=32, num_classes=3).eval()
    assert not weights.load(model, str(tmp_path)).missing
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(clips), theirs(clips).logits)
    other = vivit.build(options, num_frames=8, size=64, num_classes=3).eval()
    report = weights.load(other, str(tmp_path))
    assert report.interpolated == ["network.vivit.embeddings.position_embeddings"]
    assert other(torch.randn(1, 8, 3, 64, 64)).shape == (1, 3)


def test_a_backbones_file_is_found_by_its_names(tmp_path: Path) -> None:
    spec, clip = ModelSpec.of_preset("vit-lstm", "small", 3)
    eye = timm.create_model("test_vit", num_classes=0, img_size=160)
    save_file(eye.state_dict(), tmp_path / "eye.safetensors")
    model = build(spec, clip)
    report = weights.load(model, str(tmp_path / "eye.safetensors"))
    assert report.interpolated == ["backbone.network.pos_embed"]
    loaded = model.state_dict()["backbone.network.patch_embed.proj.weight"]
    assert torch.equal(loaded, eye.state_dict()["patch_embed.proj.weight"])
    assert all(not name.startswith("backbone.network.blocks") for name in report.missing)


def test_a_checkpoint_of_our_own_begins_another_run(tmp_path: Path) -> None:
    spec, clip = ModelSpec.of_preset("cnn-lstm", "small", 3)
    trained = build(spec, clip)
    save_file(
        {name: value.contiguous() for name, value in trained.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    again = build(ModelSpec.of_preset("cnn-lstm", "small", 6)[0], clip)
    report = weights.load(again, str(tmp_path))
    assert sorted(report.new_head) == ["head.bias", "head.weight"]
    assert not report.missing


def test_a_backbone_of_transformers_is_made_anew_without_the_hub(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=16,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=True).save_pretrained(tmp_path / "vit")
    name = f"hf:{tmp_path / 'vit'}"
    spec, _ = ModelSpec.of_preset("vit-lstm", "base", 3, backbone=name)
    clip = ClipSpec(num_frames=2, resize=32, crop=32)
    model = build(spec, clip, pretrained=True).eval()
    saved = json.loads(json.dumps(portable(spec, model).to_dict()))
    for file in (tmp_path / "vit").iterdir():
        file.unlink()
    again = build(ModelSpec.from_dict(saved), clip).eval()
    again.load_state_dict(model.state_dict())
    clips = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(clips), model(clips))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "facebook/timesformer-base-finetuned-k400",
            "`weights='none'` .* or `weights` with a folder",
        ),
        ("./nowhere", "there are no weights './nowhere'"),
        ("EMPTY", "holds neither model.safetensors nor"),
        ("NARROW", "is .*×32 in the file and .*×64 in the model; choose another `preset`"),
        ("STRANGE", "holds 0 of this model's"),
        ("BROKEN", "can't be read as weights"),
    ],
)
def test_weights_that_cannot_be_loaded_name_the_flag(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = ours(dim=64) if source == "NARROW" else ours()
    if source == "NARROW":
        timesformer_folder(tmp_path)
    elif source == "STRANGE":
        save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    elif source == "BROKEN":
        (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=message):
        weights.load(model, str(tmp_path) if source.isupper() else source)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("mobilenetv2_100", "pass `weights='none'`"),
        ("hf:google/vit-base-patch16-224", "`option='backbone=hf:FOLDER'`"),
    ],
)
def test_a_backbone_that_cannot_be_fetched_names_the_setting(
    name: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=fix):
        Backbone(name, size=64, pretrained=True)
