"""What `engine info` says of decoders is tried, on PyAV and on DALI themselves."""

import io
import os

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from dali_pipelines.decode.codec_support import (
    CODECS,
    LEVELS_T,
    NUM_FRAMES,
    _is_right,
    encode_sample,
)
from engine.commands.info import try_decoders


def test_on_a_cpu_pyav_opens_all_and_dali_what_its_manual_says() -> None:
    found = try_decoders(with_gpu=False)
    assert list(found) == list(CODECS)
    assert all(results["PyAV"] for results in found.values())
    on_cpu = {codec for codec, results in found.items() if results["DALI on CPU"]}
    assert on_cpu == {"vp8", "vp9", "mjpeg"}
    assert {results["DALI on GPU"] for results in found.values()} == {None}


@pytest.mark.gpu
def test_on_a_gpu_nvdec_opens_h264() -> None:
    assert try_decoders(with_gpu=True)["h264"]["DALI on GPU"]


def test_a_wrong_order_is_no_success() -> None:
    frames = np.broadcast_to(LEVELS_T[:, None, None, None], (NUM_FRAMES, 4, 4, 3))
    assert _is_right(frames)
    assert not _is_right(frames[::-1])
    assert not _is_right(frames[[0, 2, 1, 3, 4, 5, 6, 7]])
    assert not _is_right(frames[:-1])


@pytest.mark.parametrize("codec", ["mpeg4", "h264", "hevc"])
def test_samples_have_b_frames(codec: str) -> None:
    with av.open(io.BytesIO(encode_sample(CODECS[codec]))) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    assert PictureType.B in kinds


def test_encoding_leaves_no_real_time_thread_behind() -> None:
    encode_sample(CODECS["av1"])  # as root, its encoder would
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
