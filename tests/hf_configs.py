"""Configs of the video classifiers of `transformers`, tiny."""

from typing import Any

SMALL: dict[str, Any] = {"hidden_size": 48, "num_attention_heads": 4}
LAYERS: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 96}
CONFIGS: dict[str, dict[str, Any]] = {
    "timesformer": {**SMALL, **LAYERS, "image_size": 64, "num_frames": 8},
    "videomae": {**SMALL, **LAYERS, "image_size": 64, "num_frames": 8},
    "vivit": {**SMALL, **LAYERS, "image_size": 64, "num_frames": 8},
    "vjepa2": {
        **SMALL, "crop_size": 64, "frames_per_clip": 8, "num_hidden_layers": 2, "mlp_ratio": 2.0,
        "num_pooler_layers": 1, "pred_hidden_size": 24, "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
    "videoprism_vision_model": {
        **SMALL, "image_size": 64, "num_frames": 8, "num_spatial_layers": 2,
        "num_temporal_layers": 1, "intermediate_size": 96, "tubelet_size": [1, 16, 16],
    },
}  # fmt: skip
"""Every type of the family."""
