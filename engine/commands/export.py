"""`engine export triton`: write a model repository for NVIDIA Triton Inference Server."""

from pathlib import Path
from typing import Annotated

import typer


def triton(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="An artifact of `engine compile`.")
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="New folder for the model repository.")
    ],
    name: Annotated[
        str, typer.Option(help="Name of the model in Triton. Default: the artifact's folder.")
    ] = "",
    device: Annotated[
        str, typer.Option(help="Where the server preprocesses. gpu: it takes video files and "
                               "decodes them; cpu: it takes decoded frames; auto: gpu, but cpu "
                               "for OpenVINO.")
    ] = "auto",
) -> None:  # fmt: skip
    """Write the model, its preprocessing, an ensemble of both, and a README with a client.

    Example: [bold]engine export triton artifacts/onnx triton_models[/bold]
    """
    from dali_pipelines.loaders.triton_pipeline import INPUT_KINDS
    from engine.errors import unknown_name
    from engine.serving import triton_repository

    if device != "auto" and device not in INPUT_KINDS:
        raise unknown_name("device", device, ["auto", *INPUT_KINDS])
    made = triton_repository.write(artifact, folder, name=name, device=device)
    print(f"{folder}: {made.name}, {made.name}_preprocess and {made.name}_ensemble")
    for note in made.notes:
        print(f"note: {note}")
    print(f"next: {made.start}")
