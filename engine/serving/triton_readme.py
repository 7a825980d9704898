"""The README of an exported model repository, with a client that runs."""

from dali_pipelines.loaders.triton_pipeline import Device

TEXT = """# {name} for Triton

`{name}_ensemble` takes {takes} and gives logits. It is
`{name}_preprocess` (DALI: {preprocess}) and then `{name}`.
The client selects the frames of a clip with the pure function
`dali_pipelines.sampling.plan_frames`; the ClipSpec that it needs is a parameter of the ensemble.

Start: `{start}`

{notes}

Send one clip per request, so that Triton can batch clips of any length. This client needs engine
and `pip install tritonclient[http]`; its argument is a video:

```python
import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from dali_pipelines import sampling
from dali_pipelines.decode import {imports}
from dali_pipelines.spec import ClipSpec

client = triton.InferenceServerClient("localhost:8000")
parameters = client.get_model_config("{name}_ensemble")["parameters"]
spec = ClipSpec.from_dict(json.loads(parameters["clip"]["string_value"]))
path = Path(sys.argv[1])
facts = clip_file.probe(path)
plan = sampling.plan_frames(facts.frames, facts.fps, spec)
{reading}inputs = []
for name, dtype, array in arrays:
    inputs.append(triton.InferInput(name, array.shape, dtype))
    inputs[-1].set_data_from_numpy(array)
outputs = [triton.InferRequestedOutput("logits", class_count=1)]
result = client.infer("{name}_ensemble", inputs, outputs=outputs).as_numpy("logits")
score, index, label = result.ravel()[0].decode().split(":", 2)
print(label)
```
"""
IMPORTS: dict[Device, str] = {"gpu": "clip_facts, clip_file, remux", "cpu": "clip_file, pixels"}
TAKES: dict[Device, str] = {
    "gpu": "the needed part of a video file and the frame numbers in it",
    "cpu": "the frames of a clip, with the short side resized,",
}
PREPROCESS: dict[Device, str] = {
    "gpu": "NVDEC decoding, resizing, center crop",
    "cpu": "center crop",
}
READING: dict[Device, str] = {
    "gpu": """\
for_gpu = facts.codec in clip_facts.NVDEC_CODECS and clip_facts.suits_dali(facts)
part = remux.cut_part(path, plan.left) if for_gpu and plan.is_plain else None
if part is None:
    sys.exit(f"{path} needs a repository exported with --device cpu")
numbers = np.array([part.nvdec_numbers[number] for number in plan.left.tolist()], np.int32)
arrays = [("source", "UINT8", part.encoded[None]), ("numbers", "INT32", numbers[None])]
""",
    "cpu": """\
frames = clip_file.read_frames(path, plan.source_indices)
frames = np.stack([pixels.resize_short(frame, spec.resize) for frame in frames])
arrays = [("source", "UINT8", plan.compose(frames)[None])]
""",
}


def readme(*, name: str, device: Device, start: str, notes: list[str]) -> str:
    return TEXT.format(
        name=name,
        takes=TAKES[device],
        preprocess=PREPROCESS[device],
        start=start,
        notes="\n".join(f"- {note[0].upper()}{note[1:]}." for note in notes),
        imports=IMPORTS[device],
        reading=READING[device],
    )
