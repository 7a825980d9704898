"""The page from top to bottom: choose a model and a video, see what happens in it.

Streamlit runs it anew after each click; what was worked out stays in the session's state.
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
"""For so long the list of a folder's videos is kept."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What answers; visitors take turns."""

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
    """What the session holds of the video in front of its visitor."""

    key: tuple[Any, ...]
    answer: Answer
    model: Model
    playable: Playable
    seconds: dict[str, float]
    """What each stage took."""
    jumps: int = 0


def show(site: Site, open_model: Callable[[str, str], Model]) -> None:
    """`open_model` takes a path and a device; it raises UserError alone."""
    st.set_page_config(page_title="engine", page_icon="🎬", layout="wide")
    st.html(STYLE)
    st.title("What happens in this video?")
    with st.sidebar:
        name = cast(str, st.selectbox("Model", list(site.models), key="model"))
        window_s = st.number_input(
            "Seconds of a window",
            min_value=0.2, max_value=600.0, value=2.0, step=0.5, key="window",
            help="Longer videos are answered window by window, each half over the one before.",
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
        shown = _worked_out(site, source, name, float(window_s), open_model)
    except VideoError as error:
        called = source.name if source else "This video"
        problem = f"{called} can't be labelled: {error.reason}. Choose another file, or mend it."
    except (UserError, SpecError) as error:
        problem = str(error)
    except OSError as error:  # a pick that has gone, a full disk
        problem = f"It can't be read: {error.strerror or error}."
    if problem:
        st.error(drawing.plain(problem), icon=":material/error:")
        return
    _draw(shown)


def _choose(site: Site) -> Source | None:
    picked = None
    if site.folders:
        listed = _listed(site.folders)
        way = st.radio("Video from", ["upload", "folder"], horizontal=True, key="way")
        if way == "folder":
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


def _worked_out(
    site: Site,
    source: Source,
    name: str,
    window_s: float,
    open_model: Callable[[str, str], Model],
) -> PageState:
    """As it stands from the last run of the page, or anew; the file is open just as long."""
    key = (source.key, name, window_s)
    before: PageState | None = st.session_state.get("shown")
    if before is not None and before.key == key:
        return before
    path_of_model = site.models.get(name)
    if path_of_model is None:  # what the browser sends may be anything
        raise UserError(f"there is no model {name!r} here; choose one of the list.")
    st.session_state.pop("shown", None)
    bar = st.progress(0.0, "Opening the model")
    started = time.perf_counter()
    model = open_model(path_of_model, site.device)
    opening_s = time.perf_counter() - started

    def log(done: int, total: int) -> None:
        bar.progress(done / total, f"{done:,} of {total:,} windows")

    with source.opened() as path:
        bar.progress(0.0, "Reading the video")
        found = answer(path, model, model.clip, window_s=window_s, gpu=model.gpu, log=log)
        started = time.perf_counter()
        if before is not None and before.key[0] == source.key:
            play = before.playable
        else:
            bar.progress(1.0, "Making it playable")
            play = playable(
                path, source.size, most_mb=site.max_upload_mb,
                log=lambda second: _tell_player(bar, second, found.duration_s),
            )  # fmt: skip
    playing_s = time.perf_counter() - started
    bar.empty()
    seconds = {"opening the model": opening_s, **found.seconds, "player": playing_s}
    shown = PageState(key=key, answer=found, model=model, playable=play, seconds=seconds)
    st.session_state.shown = shown
    st.session_state.segment = None
    return shown


def _tell_player(bar: Any, second: float, duration_s: float) -> None:
    bar.progress(min(1.0, second / max(duration_s, 0.1)), "Making it playable")


def _draw(shown: PageState) -> None:
    found, names = shown.answer, shown.model.class_names
    number = st.session_state.get("segment")
    segment = found.segments[number] if number is not None else None
    left, right = st.columns([3, 2], gap="large")
    with left:
        start_s = segment.start_s if segment else 0.0
        # Another container for each jump: a player that is there already doesn't go back.
        with st.container(key=f"player-{shown.jumps}"):
            st.video(shown.playable.data, shown.playable.mime, start_time=int(start_s))
        if shown.playable.note:
            st.caption(shown.playable.note)
    with right:
        drawing.label_and_bars(found, names)

    def jump(to: int) -> None:
        st.session_state.segment = to
        shown.jumps += 1

    if found.segments:
        drawing.timeline(found, names, jump, key=f"timeline-{shown.jumps}")
    middle_s = (segment.start_s + segment.end_s) / 2 if segment else found.duration_s / 2
    title = drawing.plain(names[segment.label]) if segment else "Sampled frames"
    drawing.frames(found.strip_at(middle_s), title)
    drawing.stages(shown.seconds)
    st.caption(
        f"{drawing.plain(shown.model.name)}: {shown.model.runs_on}. "
        f"{found.duration_s:.1f} s of video in {found.num_windows:,} "
        f"{'window' if found.num_windows == 1 else 'windows'}."
        + (
            f" {found.num_damaged:,} of the frames that it saw are damaged."
            if found.num_damaged
            else ""
        )
    )
