"""The command line as users meet it: names, messages, exit codes, Ctrl-C."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import videos

from dali_pipelines.cores import num_cores
from engine.cli import COMMANDS, DATA_COMMANDS, EXPORT_COMMANDS

FLAGS = {
    "info": {"--json"},
    "demo": {"--out", "--clips-per-class", "--epochs"},
    "train": set(
        "--data --model --preset --weights --loader --epochs --out --recipe --resume --batch-size "
        "--lr --optimizer --precision --no-flip --cache --cache-gb --device --devices --nodes "
        "--set --option --seed --folds --track --track-weights".split()
    ),
    "evaluate": {"--data", "--split", "--splits", "--views", "--out", "--device"},
    "compile": set(
        "--out --backend --precision --data --batches --clips --calibration-clips --accept-drift "
        "--unproved --workspace-gb --optimization-level --rebuild --cache".split()
    ),
    "study": {"--data", "--out", "--set", "--scheme", "--cache", "--track", "--device"},
    "reproduce": {"--data", "--out", "--set", "--cache", "--device"},
    "bench": set(
        "--data --stage --out --against --split --views --batches --clips --repeats --seconds "
        "--target-clips-per-s --max-drop --frames --size --batch-size".split()
    ),
    "label": set(
        "--model --out --format --list --include --exclude --window --stride --segments --vtt "
        "--smooth --top-k --min-confidence --resume --fresh --retry --mix --shard --merge "
        "--cluster --workers --watch --dry-run --batch-size --timeout --device "
        "--max-download".split()
    ),
    "serve": set(
        "--host --port --api-key --device --allow-folder --allow-host --max-batch --max-wait-ms "
        "--queue --timeout --max-upload-mb --max-duration --replicas --log-requests".split()
    ),
    "watch": set(
        "--model --window --stride --top-k --events --min-confidence --hold --timeout "
        "--batch-size --device".split()
    ),
    "app": {"--videos", "--host", "--port", "--max-upload-mb", "--open", "--device"},
    "data synth": {"--classes", "--clips-per-class", "--seed"},
    "data hmdb51": {"--out"},
    "data index": {"--list", "--skip-missing", "--frames-fps"},
    "data split": {"--scheme", "--fold", "--folds", "--seed"},
    "data check": {"--timeout"},
    "data audit": {"--strict", "--look", "--seed"},
    "export triton": {"--name", "--device"},
}
GROUPS = {"data": DATA_COMMANDS, "export": EXPORT_COMMANDS}


FLAG = r"--[a-z][a-z0-9-]*"
PAGES = [Path(__file__).parents[1] / "README.md", *Path(__file__).parents[1].glob("docs/*.md")]


@pytest.mark.slow
def test_commands_and_flags_are_frozen(run_engine) -> None:
    data, export = ({f"{group} {name}" for name in commands} for group, commands in GROUPS.items())
    assert {*COMMANDS, *data, *export} == set(FLAGS)
    pages = "\n".join(page.read_text().replace("\\\n", " ") for page in PAGES)
    for command, flags in FLAGS.items():
        text = run_engine(*command.split(), "--help").stdout
        known = set(re.findall(FLAG, text.split("Options")[-1]))
        assert known >= flags
        assert "Example:" in text, command
        for shown in re.findall(rf"engine {command} [^`#\n]*", pages):  # what the docs tell to type
            assert set(re.findall(FLAG, shown)) <= known, shown


def test_help_shows_every_command(run_engine) -> None:
    text = run_engine("--help").stdout
    assert all(name in text for name in [*COMMANDS, *GROUPS, "--debug", "--install-completion"])
    assert run_engine().returncode == 2  # no arguments: the help, as a usage error


def test_the_shell_completes_commands_and_flags(run_engine) -> None:
    def offered(words: str) -> list[str]:
        typed = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        asked = run_engine(env={"_ENGINE_COMPLETE": "complete_bash", **typed})
        return asked.stdout.split()

    assert offered("engine da") == ["data"]
    assert offered("engine data sy") == ["synth"]
    assert "--preset" in offered("engine train --pre")


@pytest.mark.slow
def test_info_tells_machine_decoders_and_backends(run_engine) -> None:
    result = run_engine("info", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["machine"]["num_cores"] == num_cores()
    assert facts["machine"]["libraries"]["torch"]
    assert facts["decoders"]["mpeg4"]["PyAV"] is True
    assert facts["backends"]["eager"]["usable"] is True
    assert facts["baselines"]["torch"] is None  # it needs nothing but engine
    table = run_engine("info").stdout
    assert "DALI on CPU" in table
    assert facts["advice"]
    assert all(hint in table for hint in facts["advice"])
    if not facts["backends"]["onnx"]["usable"]:
        assert "pip install -e '.[onnx]'" in table  # brackets are no markup


@pytest.mark.slow
def test_the_path_of_a_new_user(run_engine, tmp_path: Path) -> None:
    """Own videos, one of them broken: index, split, check, audit."""
    root = tmp_path / "mine"
    for label in ("jump", "sit still"):
        (root / label).mkdir(parents=True)
        for number in range(10):
            videos.write_video(root / label / f"clip {number}.mp4", codec="h264", frames=25)
    (root / "jump" / "broken.mp4").write_bytes(b"\0" * 1000)

    index = run_engine("data", "index", root)
    assert index.returncode == 1  # done, with a clip that failed
    assert "21 clips in 2 classes from 21 sources" in index.stdout
    assert "unreadable: jump/broken.mp4" in index.stdout
    split = run_engine("data", "split", root, "--scheme", "grouped")
    assert split.returncode == 0
    assert re.search(r"1\d train, \d val, \d test", split.stdout)
    check = run_engine("data", "check", root)
    assert check.returncode == 1
    assert "bad: jump/broken.mp4: can't be opened as video" in check.stdout
    audit = run_engine("data", "audit", root)
    assert audit.returncode == 0, audit.stderr
    assert json.loads((root / "audit.json").read_text())["schemes"][0]["same_source"] == 0


@pytest.mark.slow
def test_strict_audit_refuses_a_leak_with_code_3(run_engine, synth: Path) -> None:
    assert run_engine("data", "split", synth, "--scheme", "stratified").returncode == 0
    leaking = run_engine("data", "audit", synth, "--strict", "--no-look")
    assert leaking.returncode == 3
    assert "split anew with --scheme grouped" in leaking.stderr
    assert run_engine("data", "split", synth, "--scheme", "grouped").returncode == 0
    assert run_engine("data", "audit", synth, "--strict").returncode == 0


def _bad_row(root: Path) -> None:
    with (root / "manifest.csv").open("a") as file:
        file.write("videos/wave/x.avi,wave\n")


def _ghost(root: Path) -> None:
    shutil.rmtree(root / "videos" / "move_left")
    (root / "videos" / "move_left").mkdir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "index", "{root}/nowhere"], "nowhere is not a folder; name the folder"),
        (["data", "split", "{root}", "--scheme", "groupd"], "did you mean 'grouped'?"),
        (["data", "split", "{root}", "--scheme", "grouped", "--fold", "2"], "--fold only"),
        (
            ["data", "split", "{root}", "--scheme", "official", "--fold", "9"],
            "choose fold 1, 2 or 3",
        ),
        (["data", "split", "{root}", "--scheme", "hmdb-simp"], "clips of brush_hair where"),
        (["data", "synth", "{root}"], "already exists and isn't empty"),
        (["data", "synth", "{root}/new", "--classes", "99"], "--classes takes 2 to 10, not 99"),
        (["data", "hmdb51", "{root}/nowhere", "--out", "{root}/out"], "nowhere doesn't exist"),
        (["data", "audit", "{root}/videos"], "holds no manifest.csv; make one with"),
    ],
)
def test_a_mistake_gets_one_sentence_and_code_2(
    arguments: list[str], message: str, run_engine, synth: Path
) -> None:
    before = sorted(map(str, synth.rglob("*")))
    result = run_engine(*(argument.format(root=synth) for argument in arguments))
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert sorted(map(str, synth.rglob("*"))) == before


@pytest.mark.parametrize(
    ("damage", "command", "message"),
    [
        (_bad_row, "check", r"manifest.csv line 32: 2 values where 9 belong"),
        (_ghost, "index", r"move_left holds no clips; remove the folder"),
    ],
)
def test_a_damaged_dataset_gets_one_sentence(
    damage, command: str, message: str, run_engine, synth: Path
) -> None:
    damage(synth)
    result = run_engine("data", command, synth)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_odd_names_print_and_break_nothing(run_engine, synth: Path) -> None:
    (synth.parent / "set[").mkdir()
    odd = synth.rename(synth.parent / "set[" / "x] ü")  # to rich, [/x] is a closing tag
    assert run_engine("data", "audit", odd, "--no-look").returncode == 0
    name = os.fsdecode(b"caf\xe9.avi")
    (odd / "videos" / "move_left" / name).write_bytes(b"no video")
    result = run_engine("data", "index", odd, env={"PYTHONIOENCODING": "utf-8:strict"})
    assert result.returncode == 1, result.stderr
    assert "caf\\udce9.avi" in result.stdout


def test_the_current_folder_is_refused_before_work_begins(
    run_engine, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_engine("data", "synth", ".", env={"PYTHONPATH": str(Path(__file__).parents[1])})
    assert result.returncode == 2
    assert "the current folder can't be the new one" in result.stderr


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback(place: str, run_engine, tmp_path: Path) -> None:
    arguments = ["data", "check", tmp_path / "none"]
    arguments = ["--debug", *arguments] if place == "before" else [*arguments, "--debug"]
    result = run_engine(*arguments)
    assert result.returncode != 0
    assert "Traceback" in result.stderr
    assert "UserError" in result.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_half_dataset(stop: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "engine", "data", "synth", str(tmp_path / "set"),
               "--clips-per-class", "500"]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 900
    while not list(tmp_path.rglob("*.avi")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, stop)  # as a terminal does, to the whole group
    _, errors = process.communicate(timeout=900)
    assert not (tmp_path / "set").exists()
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert errors == "engine: stopped; what was being written is removed.\n"
        assert not any(tmp_path.iterdir())
    deadline = time.monotonic() + 900
    while alive_in_group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive_in_group(process.pid) == []  # no worker lives on


def alive_in_group(group: int) -> list[str]:
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = stat.read_text().rpartition(") ")
        except OSError:
            continue  # it ended while we looked
        state, _, process_group = fields.split()[:3]
        if int(process_group) == group and state != "Z":
            alive.append(name)
    return alive


def test_two_dalis_in_one_place_are_named() -> None:
    """They share their files; only the packages' names tell that one broke the other."""
    from engine.commands.info import advice
    from engine.machine import describe_machine
    from trt.backends import probe_all

    machine, backends = describe_machine(), probe_all(None)
    both = {"nvidia-dali-cuda120": "2.4.0", "nvidia-dali-cuda130": "2.4.0"}
    hint = "pip uninstall nvidia-dali-cuda120 nvidia-dali-cuda130, then install one of them"
    assert hint in advice(dataclasses.replace(machine, libraries=both), {}, backends)[0]
    assert hint not in advice(machine, {}, backends)[0]
