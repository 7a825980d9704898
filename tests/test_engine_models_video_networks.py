"""torchvision's video models and X3D: equal to the published ones, at any clip shape."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.video.mvit import MViT

from dali_pipelines.spec import ClipSpec
from engine.errors import UserError
from engine.models import torchvision_video, weights, x3d
from engine.models.freezing import is_new
from engine.models.registry import PRESETS, ModelSpec, build
from trt import program
from trt.config import BatchRange

NAMES = [name for name in PRESETS["torchvision"] if name not in ("base", "small")]
PARAMETERS_X3D = 3_794_274  # of PyTorchVideo's X3D-S and X3D-M, with 400 classes


def ours(name: str, frames: int, size: int, classes: int = 5) -> Any:
    family = "x3d" if name in PRESETS["x3d"] else "torchvision"
    spec, _ = ModelSpec.of_preset(family, name, classes)
    return build(spec, ClipSpec(num_frames=frames, resize=size, crop=size)).eval()


def theirs(name: str, classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=classes).eval()
    for weight in model.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    return model


def their_logits(model: nn.Module, clips_BTCHW: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(clips_BTCHW.transpose(1, 2))


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [
        ("r3d_18", 4, 48),
        ("mc3_18", 4, 48),
        ("r2plus1d_18", 4, 48),
        ("swin3d_t", 6, 64),
        pytest.param("swin3d_s", 6, 64, marks=pytest.mark.slow),
        pytest.param("swin3d_b", 6, 64, marks=pytest.mark.slow),
        pytest.param("s3d", 16, 224, marks=pytest.mark.slow),
        pytest.param("mvit_v1_b", 16, 224, marks=pytest.mark.slow),
        pytest.param("mvit_v2_s", 16, 224, marks=pytest.mark.slow),
    ],
)
def test_a_file_of_torchvision_gives_its_logits(
    name: str, frames: int, size: int, tmp_path: Path
) -> None:
    published, model = theirs(name), ours(name, frames, size)
    torch.save(published.state_dict(), tmp_path / f"{name}.pth")
    report = weights.load(model, str(tmp_path / f"{name}.pth"))
    assert not report.missing + report.unused + report.new_head + report.interpolated
    clips = torch.randn(1, frames, 3, size, size)
    expected = their_logits(published, clips)
    assert expected.std() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(model(clips), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_the_clips_that_the_weights_were_trained_on(name: str) -> None:
    clip, published = PRESETS["torchvision"][name].clip, _published(name)
    transforms = published.transforms()
    assert clip.mean == pytest.approx(transforms.mean)
    assert clip.std == pytest.approx(transforms.std)
    assert [clip.crop, clip.crop] == transforms.crop_size
    assert clip.resize == min(transforms.resize_size)
    text = published.meta["_docs"]
    assert f"clip_len={clip.num_frames}`" in text.replace("`.", "`")
    assert f"frame_rate={clip.fps:g}`" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_published_model(name: str) -> None:
    clip = PRESETS["torchvision"][name].clip
    model = ours(name, clip.num_frames, clip.crop, classes=400)
    found = sum(each.numel() for each in model.parameters())
    assert found == _published(name).meta["num_params"]


def _published(name: str) -> Any:
    return torchvision.models.get_model_weights(name).DEFAULT


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s"])
@pytest.mark.parametrize(("frames", "size"), [(8, 64), (5, 112)])
def test_mvit_takes_other_clips_with_interpolated_positions(
    name: str, frames: int, size: int, tmp_path: Path
) -> None:
    before, after = ours(name, 4, 64), ours(name, frames, size)
    torch.save(before.state_dict(), tmp_path / "weights.pth")
    report = weights.load(after, str(tmp_path / "weights.pth"))
    over_time, over_space = {
        "mvit_v1_b": ({"temporal_pos"}, {"spatial_pos"}),
        "mvit_v2_s": ({"rel_pos_t"}, {"rel_pos_h", "rel_pos_w"}),
    }[name]
    expected = over_time | (over_space if size != 64 else set())
    assert {each.rpartition(".")[2] for each in report.interpolated} == expected
    assert not report.missing + report.unused + report.new_head
    with torch.no_grad():
        assert after(torch.randn(1, frames, 3, size, size)).isfinite().all()


@pytest.mark.slow
def test_interpolated_positions_are_those_of_torchvision(tmp_path: Path) -> None:
    """Its own module interpolates its tables in each forward pass."""
    published, model = theirs("mvit_v2_s"), ours("mvit_v2_s", 8, 224)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    weights.load(model, str(tmp_path / "weights.pth"))
    assert isinstance(published, MViT)
    published.pos_encoding.temporal_size = 4
    clips = torch.randn(1, 8, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            model(clips), their_logits(published, clips), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "mvit_v2_s", "swin3d_t"])
def test_other_classes_get_a_new_head_that_trains_alone(name: str, tmp_path: Path) -> None:
    model = ours(name, 8, 64, classes=3)
    torch.save(theirs(name).state_dict(), tmp_path / "weights.pth")
    report = weights.load(model, str(tmp_path / "weights.pth"))
    assert sorted(report.new_head) == ["head.bias", "head.weight"]
    assert [each for each, _ in model.named_parameters() if is_new(each)] == [
        "head.weight", "head.bias",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "s", "m"])
def test_a_published_size_exports_and_takes_a_step(name: str) -> None:
    model = ours(name, 8, 64)
    clips = torch.randn(3, 8, 3, 64, 64)
    exported = program.export(model, clips[:1], BatchRange(max=16)).module()
    with torch.no_grad():
        for size in (1, 3):
            torch.testing.assert_close(
                exported(clips[:size]), model(clips[:size]), atol=1e-4, rtol=1e-4
            )
    nn.functional.cross_entropy(model.train()(clips), torch.arange(3)).backward()
    gradients = {each: weight.grad for each, weight in model.named_parameters()}
    assert not [each for each, found in gradients.items() if found is None]
    assert all(found.isfinite().all() for found in gradients.values() if found is not None)


@pytest.mark.parametrize(
    ("family", "preset", "name"),
    [("torchvision", "base", "mvit_v2_s"), ("x3d", "s", "x3d_s"), ("x3d", "m", "x3d_m")],
)
def test_weights_that_cannot_be_fetched_name_the_setting(
    family: str, preset: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    spec, clip = ModelSpec.of_preset(family, preset, 5)
    with pytest.raises(UserError, match=f"{name}.* can't be fetched .*`weights='none'`"):
        build(spec, clip, pretrained=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: torchvision_video.Options(name="s3d", width=0.5), "s3d has one width"),
        (lambda: ours("s3d", 4, 64), "at least 5 frames of 17² pixels"),
        (
            lambda: build(*ModelSpec.of_preset("torchvision", "small", 5), pretrained=True),
            "only the full width has published weights",
        ),
        (
            lambda: build(*ModelSpec.of_preset("x3d", "small", 5), pretrained=True),
            "only width=2 and depth=2.2 have published weights",
        ),
    ],
)
def test_what_does_not_exist_is_refused(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def x3d_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of PyTorchVideo's X3D-S and X3D-M, apart from counters."""
    shapes: dict[str, tuple[int, ...]] = {
        "blocks.0.conv.conv_t.weight": (24, 3, 1, 3, 3),
        "blocks.0.conv.conv_xy.weight": (24, 1, 5, 1, 1),
        **_norm("blocks.0.norm", 24),
    }
    before = 24
    stages = ((3, 24, 54), (5, 48, 108), (11, 96, 216), (7, 192, 432))
    squeezed = {54: 8, 108: 8, 216: 16, 432: 32}
    for stage, (num_blocks, out, inner) in enumerate(stages, start=1):
        for block in range(num_blocks):
            name = f"blocks.{stage}.res_blocks.{block}"
            if block == 0:
                shapes[f"{name}.branch1_conv.weight"] = (out, before, 1, 1, 1)
            if before != out:
                shapes |= _norm(f"{name}.branch1_norm", out)
            name += ".branch2"
            shapes |= {
                f"{name}.conv_a.weight": (inner, before, 1, 1, 1),
                f"{name}.conv_b.weight": (inner, 1, 3, 3, 3),
                f"{name}.conv_c.weight": (out, inner, 1, 1, 1),
                **_norm(f"{name}.norm_a", inner),
                **_norm(f"{name}.norm_b.0", inner),
                **_norm(f"{name}.norm_c", out),
            }
            if block % 2 == 0:
                shapes |= {
                    f"{name}.norm_b.1.block.0.weight": (squeezed[inner], inner, 1, 1, 1),
                    f"{name}.norm_b.1.block.0.bias": (squeezed[inner],),
                    f"{name}.norm_b.1.block.2.weight": (inner, squeezed[inner], 1, 1, 1),
                    f"{name}.norm_b.1.block.2.bias": (inner,),
                }
            before = out
    return shapes | {
        "blocks.5.pool.pre_conv.weight": (432, 192, 1, 1, 1),
        **_norm("blocks.5.pool.pre_norm", 432),
        "blocks.5.pool.post_conv.weight": (2048, 432, 1, 1, 1),
        "blocks.5.proj.weight": (classes, 2048),
        "blocks.5.proj.bias": (classes,),
    }


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts}


@pytest.mark.parametrize("preset", ["s", "m"])
def test_x3d_has_the_published_number_of_parameters(preset: str) -> None:
    model = ours(preset, 13, 160, classes=400)
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS_X3D


@pytest.mark.parametrize("classes", [400, 5])
def test_x3d_loads_a_file_of_pytorchvideo_by_name(classes: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {name: torch.rand(shape) / 10 for name, shape in x3d_shapes(400).items()}
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
        for name in state
        if name.endswith("running_mean")
    }
    torch.save({"model_state": state | counters}, tmp_path / "X3D_S.pyth")
    model = ours("s", 13, 160, classes=classes)
    report = weights.load(model, str(tmp_path / "X3D_S.pyth"))
    assert not report.missing + report.unused + report.interpolated
    assert bool(report.new_head) == (classes != 400)
    own = model.state_dict()
    for name, weight in x3d.X3D.from_published(state).items():
        if name not in report.new_head:
            assert torch.equal(own[name], weight), name


def test_x3d_takes_clips_of_any_length_and_size() -> None:
    model = ours("s", 13, 160)
    with torch.no_grad():
        for frames, size in ((1, 32), (5, 50)):
            assert model(torch.randn(2, frames, 3, size, size)).shape == (2, 5)
