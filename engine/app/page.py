"""The page of `engine app`: choose a model and a video, and see its labels.

Streamlit reruns the page after each click; results are kept in the session state.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from dali_pipelines.errors import SpecError, VideoError
from engine.app import drawing, sources
from engine.app.answer import Answer, answer
from engine.app.player import Playable, playable
from engine.app.site import Site
from engine.app.sources import Source
from engine.errors import UserError

if TYPE_CHECKING:
    import torch

    from dali_pipelines.spec import ClipSpec

STYLE = "<style>.block-container { padding-top: 2.5rem }</style>"
LIST_S = 10.0
"""Seconds for which the list of videos in folders is cached."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """An open model; a lock lets one visitor use it at a time."""

    name: str
    run: "Callable[[torch.Tensor], torch.Tensor]"
    clip: "ClipSpec"
    class_names: list[str]
    runs_on: str
    gpu: int | None
    turn: Lock = field(default_factory=Lock)

    def __call__(self, clips: "torch.Tensor") -> "torch.Tensor":
        with self.turn:
            return self.run(clips)


@dataclass(kw_only=True)
class PageState:
    """The results of the video that a session shows."""

    key: tuple[Any, ...]
    answer: Answer
    model: Model
    playable: Playable
    seconds: dict[str, float]
    """Duration of each stage."""
    jumps: int = 0


def show(site: Site, open_model: Callable[[str, str], Model]) -> None:
    """Draw the page.

    Args:
        site: Settings from the command line.
        open_model: Opens a model from its path and a device; may raise UserError.
    """
    st.set_page_config(page_title="engine", page_icon="🎬", layout="wide")
    st.html(STYLE)
    st.title("What happens in this video?")
    with st.sidebar:
        name = cast(str, st.selectbox("Model", list(site.models), key="model"))
        window_s = st.number_input(
            "Window length in seconds",
            min_value=0.2, max_value=600.0, value=2.0, step=0.5, key="window",
            help="Long videos are labelled in windows of this length, which overlap by half.",
        )  # fmt: skip
        st.caption(
            "Uploads stay on this machine, and are deleted when you choose another video or "
            "close the page."
        )
    problem, source = "", None
    try:
        source = _choose(site)
        if source is None:
            return
        st.subheader(drawing.plain(source.name))
        state = _label(site, source, name, float(window_s), open_model)
    except VideoError as error:
        video = source.name if source else "This video"
        problem = f"{video} can't be labelled: {error.reason}. Choose another file, or repair it."
    except (UserError, SpecError) as error:
        problem = str(error)
    except OSError as error:  # the file was removed, or the disk is full
        problem = f"It can't be read: {error.strerror or error}."
    if problem:
        st.error(drawing.plain(problem), icon=":material/error:")
        return
    _draw(state)


def _choose(site: Site) -> Source | None:
    picked = None
    if site.folders:
        listed = _listed(site.folders)
        origin = st.radio("Video from", ["upload", "folder"], horizontal=True, key="origin")
        if origin == "folder":
            picked = st.selectbox(
                "Video", list(listed), index=None, key="pick", placeholder="Choose a video",
                help=f"At most {sources.MAX_PICKS:,} are listed.",
            )  # fmt: skip
            return sources.of_pick(picked, listed, site.folders) if picked else None
    uploaded = st.file_uploader("A video of any format", key="upload")
    return sources.of_upload(uploaded) if uploaded else None


@st.cache_data(ttl=LIST_S, show_spinner=False)
def _listed(folders: tuple[str, ...]) -> dict[str, Path]:
    return sources.picks(folders)


def _label(
    site: Site,
    source: Source,
    name: str,
    window_s: float,
    open_model: Callable[[str, str], Model],
) -> PageState:
    """Label the video, or return the session's results if nothing changed."""
    key = (source.key, name, window_s)
    before: PageState | None = st.session_state.get("shown")
    if before is not None and before.key == key:
        return before
    path_of_model = site.models.get(name)
    if path_of_model is None:  # never trust what the browser sends
        raise UserError(f"there is no model {name!r} here; choose one from the list.")
    st.session_state.pop("shown", None)
    bar = st.progress(0.0, "Opening the model")
    started = time.perf_counter()
    model = open_model(path_of_model, site.device)
    opening_s = time.perf_counter() - started

    def log(done: int, total: int) -> None:
        bar.progress(done / total, f"{done:,} of {total:,} windows")

    with source.opened() as path:
        bar.progress(0.0, "Reading the video")
        result = answer(path, model, model.clip, window_s=window_s, gpu=model.gpu, log=log)
        started = time.perf_counter()
        if before is not None and before.key[0] == source.key:
            video = before.playable
        else:
            bar.progress(1.0, "Converting the video")
            video = playable(
                path, source.size, most_mb=site.max_upload_mb,
                log=lambda second: _show_conversion(bar, second, result.duration_s),
            )  # fmt: skip
    player_s = time.perf_counter() - started
    bar.empty()
    seconds = {"opening the model": opening_s, **result.seconds, "player": player_s}
    state = PageState(key=key, answer=result, model=model, playable=video, seconds=seconds)
    st.session_state.shown = state
    st.session_state.segment = None
    return state


def _show_conversion(bar: Any, second: float, duration_s: float) -> None:
    bar.progress(min(1.0, second / max(duration_s, 0.1)), "Converting the video")


def _draw(state: PageState) -> None:
    result, names = state.answer, state.model.class_names
    number = st.session_state.get("segment")
    segment = result.segments[number] if number is not None else None
    left, right = st.columns([3, 2], gap="large")
    with left:
        start_s = segment.start_s if segment else 0.0
        # A new container for each jump, because an existing player ignores a new start time.
        with st.container(key=f"player-{state.jumps}"):
            st.video(state.playable.data, state.playable.mime, start_time=int(start_s))
        if state.playable.note:
            st.caption(state.playable.note)
    with right:
        drawing.label_and_bars(result, names)

    def jump(to: int) -> None:
        st.session_state.segment = to
        state.jumps += 1

    if result.segments:
        drawing.timeline(result, names, jump, key=f"timeline-{state.jumps}")
    middle_s = (segment.start_s + segment.end_s) / 2 if segment else result.duration_s / 2
    title = drawing.plain(names[segment.label]) if segment else "Sampled frames"
    drawing.frames(result.strip_at(middle_s), title)
    drawing.stages(state.seconds)
    st.caption(
        f"{drawing.plain(state.model.name)}: {state.model.runs_on}. "
        f"{result.duration_s:.1f} s of video in {result.num_windows:,} "
        f"{'window' if result.num_windows == 1 else 'windows'}."
        + (
            f" {result.num_damaged:,} of the decoded frames are damaged."
            if result.num_damaged
            else ""
        )
    )
