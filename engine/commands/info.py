"""`engine info`: what this machine can decode and compile, and what would make it faster."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dali_pipelines.decode.codec_support import Decoder
    from engine.machine import Machine
    from trt.backends import Status

MARKS = {True: "yes", False: "no", None: "–"}
TIMEOUT_S = 60.0
DALI_PACKAGES = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show CPU, GPU, decoders and compile backends, and what would make this machine faster.

    Decoders are tested by encoding and decoding a tiny video of each codec.

    Example: [bold]engine info[/bold]
    """
    import dataclasses
    import json

    from rich.console import Console

    from benchmarks.baselines import BASELINES, lacks
    from engine.machine import describe_machine
    from engine.parallel import run_each
    from trt.backends import probe_all

    console = Console()
    machine = describe_machine()
    decoders = try_decoders(with_gpu=machine.gpu is not None)
    backends = probe_all(machine.gpu)
    outcomes = run_each(
        lacks, list(BASELINES), title="Trying baselines", unit="baselines", timeout_s=TIMEOUT_S
    )  # in workers, since their decoders may crash
    baselines = {each.item: str(each.error) if each.error else each.value for each in outcomes}
    hints = advice(machine, decoders, backends)
    if as_json:
        everything = {
            "machine": dataclasses.asdict(machine),
            "decoders": decoders,
            "backends": {name: dataclasses.asdict(status) for name, status in backends.items()},
            "baselines": baselines,
            "advice": hints,
        }
        print(json.dumps(everything, indent=2))
        return
    console.print(_machine_table(machine))
    console.print(_decoder_table(decoders))
    console.print(_backend_table(backends))
    console.print(_peer_table(baselines))
    print("What would make this machine faster:")
    for hint in hints:
        print(f"  - {hint}")


def advice(
    machine: "Machine",
    decoders: dict[str, dict["Decoder", bool | None]],
    backends: dict[str, "Status"],
) -> list[str]:
    """Hints, one sentence each, with the command."""
    fastest = "openvino" if machine.gpu is None else "tensorrt"
    hints = []
    if len(machine.libraries.keys() & {*DALI_PACKAGES}) > 1:
        hints.append(
            f"pip uninstall {' '.join(DALI_PACKAGES)}, then install one of them: they have "
            "overwritten each other's files."
        )
    if not backends[fastest].usable:
        hints.append(
            f"{backends[fastest].fix or backends[fastest].why}: `engine compile` then uses "
            f"{fastest}, the fastest backend for this machine."
        )
    if machine.gpu is None:
        if "driver found" in machine.cuda:
            hints.append(
                "There is an NVIDIA driver, but torch sees no GPU: check CUDA_VISIBLE_DEVICES, and "
                "whether the driver is recent enough for this version of torch."
            )
        else:
            hints.append(
                "A GPU for training the published sizes; without one, train with --preset small."
            )
        low = "int8" if "VNNI (int8)" in machine.cpu_extras else "fp32"
        low = "bf16 or int8" if {"bf16", "AMX"} & set(machine.cpu_extras) else low
        hints.append(f"This CPU is fastest in {low}: `engine compile RUN --precision ...`.")
    elif not any(each["DALI on GPU"] for each in decoders.values()):
        hints.append(
            "DALI can't decode on this GPU, so the CPU decodes: install the driver's video library "
            "(libnvcuvid); in a container, NVIDIA_DRIVER_CAPABILITIES must name `video`."
        )
    hints.append("A cache of decoded frames if training waits for data: `engine train --cache`.")
    return hints


def try_decoders(*, with_gpu: bool) -> dict[str, dict["Decoder", bool | None]]:
    """Test each codec in a worker process; a crash or a hang counts as unsupported."""
    from functools import partial

    from dali_pipelines.decode.codec_support import CODECS, DECODERS, probe_codec
    from engine.parallel import run_each

    outcomes = run_each(
        partial(probe_codec, with_gpu=with_gpu),
        list(CODECS),
        title="Trying decoders",
        unit="codecs",
        timeout_s=TIMEOUT_S,
    )
    return {
        outcome.item: dict.fromkeys(DECODERS, False) if outcome.value is None else outcome.value
        for outcome in outcomes
    }


def _machine_table(machine: "Machine"):  # type: ignore[no-untyped-def]
    from rich.table import Table

    table = Table(show_header=False, box=None)
    extras = f" with {', '.join(machine.cpu_extras)}" if machine.cpu_extras else ""
    gpu = (
        f"{machine.gpu.name}, {machine.gpu_memory_gib} GiB, compute capability "
        f"{'.'.join(map(str, machine.gpu.capability))}, {machine.cuda}"
        if machine.gpu
        else f"none ({machine.cuda})"
    )
    table.add_row("CPU", f"{machine.cpu}: {machine.num_cores} cores{extras}")
    table.add_row("Memory", f"{machine.memory_gib} GiB")
    table.add_row("GPU", gpu)
    table.add_row("System", f"{machine.system}, Python {machine.python}")
    table.add_row(
        "Libraries", ", ".join(f"{name} {number}" for name, number in machine.libraries.items())
    )
    return table


def _decoder_table(decoders: dict[str, dict["Decoder", bool | None]]):  # type: ignore[no-untyped-def]
    from rich.table import Table

    from dali_pipelines.decode.codec_support import DECODERS

    table = Table(title="Which decoder opens which codec here (–: not tried)")
    table.add_column("codec")
    for decoder in DECODERS:
        table.add_column(decoder)
    for codec, results in decoders.items():
        table.add_row(codec, *(MARKS[results[decoder]] for decoder in DECODERS))
    return table


def _peer_table(baselines: dict[str, str | None]):  # type: ignore[no-untyped-def]
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="What `engine bench --against` can compare with here")
    for column in ("peer", "here", "what is missing"):
        table.add_column(column)
    for name, reason in baselines.items():
        table.add_row(name, MARKS[reason is None], escape(reason or "–"))
    return table


def _backend_table(backends: dict[str, "Status"]):  # type: ignore[no-untyped-def]
    from rich.markup import escape
    from rich.table import Table

    from trt.backends import BACKENDS

    table = Table(title="What each compile backend needs is here")
    for column in ("backend", "where", "here", "why", "what to do"):
        table.add_column(column)
    for name, status in backends.items():
        table.add_row(
            name, BACKENDS[name].WHERE, MARKS[status.usable], status.why, escape(status.fix) or "–"
        )
    return table
