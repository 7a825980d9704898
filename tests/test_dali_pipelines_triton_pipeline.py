"""The serialized graph gives the loader's own bytes, opened by Python and as Triton opens it."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import videos
from numpy.typing import NDArray
from rows import rows_of

from dali_pipelines.loaders import dali_graph, triton_pipeline
from dali_pipelines.loaders.clip_reader import ClipReader
from dali_pipelines.loaders.dali_loader import DaliLoader
from dali_pipelines.loaders.loader_config import LoaderConfig, Sample
from dali_pipelines.spec import ClipSpec

SPEC = ClipSpec(num_frames=4, resize=48, crop=40)


def two_clips(folder: Path, codec: str) -> list[Sample]:
    """Two clips that differ in size and shape."""
    paths = [
        videos.write_video(folder / "a", codec=codec, frames=20, size=(160, 120)),
        videos.write_video(folder / "b", codec=codec, frames=30, size=(96, 128)),
    ]
    return rows_of(paths)


def loaded(rows: list[Sample], spec: ClipSpec, **options) -> NDArray[np.uint8]:
    (batch,) = DaliLoader(rows, LoaderConfig(spec=spec, values="uint8"), num_threads=1, **options)
    return batch.clips.cpu().numpy()


def frames_of(rows: list[Sample], spec: ClipSpec) -> list[NDArray[np.uint8]]:
    reader = ClipReader(config=LoaderConfig(spec=spec))
    return [np.stack(reader.read(row, 0).sources) for row in rows]


def test_frames_become_the_clips_that_the_loader_makes(tmp_path: Path) -> None:
    from nvidia.dali import Pipeline

    spec = ClipSpec(num_frames=4, resize=48, crop=40)
    rows = two_clips(tmp_path, "mpeg4")
    serialized = triton_pipeline.serialize("cpu", spec, max_clips=8, num_threads=1)
    pipeline = Pipeline.deserialize(serialized)
    pipeline.feed_input("source", frames_of(rows, spec))
    (made,) = pipeline.run()
    clips = np.stack([np.array(made[number]) for number in range(len(rows))])
    ((_, (kind, dims)),) = triton_pipeline.output(spec).items()
    assert (kind, dims) == ("UINT8", clips.shape[1:])
    assert np.array_equal(clips, loaded(rows, spec))


def test_a_client_may_send_other_fronts_the_same_clip(tmp_path: Path) -> None:
    """The definition that a GPU server gets, where DALI decodes without a GPU."""
    rows = two_clips(tmp_path, "mjpeg")
    pipeline = dali_graph.define("video", SPEC, gpu=False, values="uint8", centered=True)(
        batch_size=2, num_threads=1, device_id=None
    )
    reader = ClipReader(config=LoaderConfig(spec=SPEC), takes_video=lambda row: True)
    sources = [source for row in rows for source in reader.read(row, 0).sources]
    for number, (name, (_, dims)) in enumerate(triton_pipeline.inputs("gpu", SPEC).items()):
        arrays = [source[number] for source in sources]
        assert all(array.shape == dims or dims == (-1,) for array in arrays)
        pipeline.feed_input(name, arrays)
    (made,) = pipeline.run()
    assert np.array_equal(made.as_array(), loaded(rows, SPEC, decoder="dali"))


def test_the_pipeline_of_a_gpu_is_serialized_without_one() -> None:
    serialized = triton_pipeline.serialize("gpu", SPEC, max_clips=8, num_threads=1)
    assert b"numbers" in serialized
    assert b"mixed" in serialized  # the decoder's device
    assert b"crop_x" not in serialized


@pytest.mark.gpu
def test_video_on_a_gpu_becomes_the_clips_that_the_loader_makes(tmp_path: Path) -> None:
    rows = two_clips(tmp_path, "h264")
    serialized = triton_pipeline.serialize("gpu", SPEC, max_clips=8, num_threads=1)
    reader = ClipReader(config=LoaderConfig(spec=SPEC), takes_video=lambda row: True)
    sources = [source for row in rows for source in reader.read(row, 0).sources]
    from nvidia.dali import Pipeline

    # Triton gets the dynamic executor by DALI_USE_EXEC2=1
    pipeline = Pipeline.deserialize(serialized, device_id=0, exec_dynamic=True)
    pipeline.feed_input("source", [encoded for encoded, _ in sources])
    pipeline.feed_input("numbers", [numbers for _, numbers in sources])
    (made,) = pipeline.run()
    assert np.array_equal(made.as_cpu().as_array(), loaded(rows, SPEC, gpu=0, decoder="dali"))


def test_dali_runs_it_through_the_calls_that_triton_makes(tmp_path: Path) -> None:
    """daliCreatePipeline, with a batch and a device of Triton's own, then input, run, output."""
    from nvidia import dali
    from nvidia.dali import fn  # noqa: F401  loads the operators

    library = ctypes.CDLL(str(Path(dali.__file__).parent / "libdali.so"))
    library.daliGetExternalInputName.restype = ctypes.c_char_p
    library.daliGetExternalInputLayout.restype = ctypes.c_char_p
    rows = two_clips(tmp_path, "mpeg4")
    frames = frames_of(rows, SPEC)
    serialized = triton_pipeline.serialize("cpu", SPEC, max_clips=2, num_threads=1)
    no_gpu, threads_as_serialized, batch = -99999, -1, 5
    handle = ctypes.byref(ctypes.create_string_buffer(256))
    assert library.daliIsDeserializable(serialized, len(serialized)) == 0
    library.daliCreatePipeline(
        handle, serialized, len(serialized), batch, threads_as_serialized, no_gpu, 0, 1, 0, 0, 0
    )
    (name,) = triton_pipeline.inputs("cpu", SPEC)
    assert library.daliGetNumExternalInput(handle) == 1
    assert library.daliGetExternalInputName(handle, 0) == name.encode()
    assert library.daliGetMaxBatchSize(handle) == batch
    assert library.daliGetDeclaredOutputNdim(handle, 0) == 4

    ragged = np.concatenate([clip.ravel() for clip in frames])
    sizes = [size for clip in frames for size in clip.shape]
    uint8, on_cpu, no_copy = 0, 0, 1 << 4
    library.daliSetExternalInputDataId(handle, name.encode(), b"request")
    library.daliSetExternalInputBatchSize(handle, name.encode(), len(rows))
    library.daliSetExternalInput(
        handle,
        name.encode(),
        on_cpu,
        ragged.ctypes.data_as(ctypes.c_void_p),
        uint8,
        (ctypes.c_int64 * len(sizes))(*sizes),
        4,
        library.daliGetExternalInputLayout(handle, name.encode()),
        no_copy,
    )
    library.daliOutputRelease(handle)
    library.daliRun(handle)
    library.daliOutput(handle)
    assert library.daliNumTensors(handle, 0) == len(rows)
    assert library.daliHasOperatorTrace(handle, name.encode(), b"depleted")
    expected = loaded(rows, SPEC)
    clips = np.zeros_like(expected)
    library.daliOutputCopy(handle, clips.ctypes.data_as(ctypes.c_void_p), 0, on_cpu, None, 0)
    assert np.array_equal(clips, expected)
    library.daliDeletePipeline(handle)
