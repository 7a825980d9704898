"""Draws the parts of an answer on the page."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import streamlit as st

from engine.app.answer import Answer, Strip
from engine.html import embed_jpeg
from engine.progress import clock

if TYPE_CHECKING:
    from engine.labelling.segments import Segment

MAX_BUTTONS = 60
"""If there are more segments, only the longest get a button; the timeline shows all."""
MAX_FRAMES_PER_ROW = 16


def plain(text: str) -> str:
    """Escape text for Markdown, so that it is shown literally."""
    one_line = re.sub(r"\s+", " ", text)
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", one_line)


def label_and_bars(answer: Answer, class_names: list[str]) -> None:
    best, share = answer.top[0]
    st.metric(
        "The whole video, on average" if answer.segments else "This video",
        class_names[best],
        f"{share:.1%} sure",
        delta_color="off",
        delta_arrow="off",
    )
    for index, probability in answer.top:
        st.progress(min(1.0, probability), f"{plain(class_names[index])} · {probability:.1%}")


def frames(strip: Strip, title: str) -> None:
    st.markdown(f"**{title}**")
    pictures = "".join(
        f'<img style="width:100%;border-radius:4px" alt="frame {number}" src="{embed_jpeg(data)}">'
        for number, data in enumerate(strip.frames, 1)
    )
    columns = f"repeat({min(MAX_FRAMES_PER_ROW, len(strip.frames))},minmax(0,120px))"
    style = f"display:grid;grid-template-columns:{columns};gap:4px;line-height:0"
    st.html(f'<div style="{style}">{pictures}</div>')
    st.caption(
        f"The {len(strip.frames)} frames that the model saw, as it saw them, "
        f"from {strip.start_s:.1f} s to {strip.end_s:.1f} s."
    )


def timeline(
    answer: Answer, class_names: list[str], jump: Callable[[int], None], *, key: str
) -> None:
    """Draw segments as bars and buttons.

    Args:
        answer: The segments.
        class_names: Names of the classes.
        jump: Called with the number of the clicked segment.
        key: Key of the chart. It must change after each click, because a selected bar can't be
            clicked again.
    """
    import altair as alt

    st.markdown("**Timeline** – click on a segment to play it")
    before = st.session_state.get("segment")
    rows = [
        {
            "number": number,
            "start": segment.start_s,
            "end": segment.end_s,
            "label": class_names[segment.label],
            "from": clock(segment.start_s),
            "to": clock(segment.end_s),
            "confidence": segment.confidence,
            "text": f"{class_names[segment.label]}, {clock(segment.start_s)} to "
            f"{clock(segment.end_s)}",
            "opacity": 1.0 if before in (None, number) else 0.45,
        }
        for number, segment in enumerate(answer.segments)
    ]
    chosen = alt.selection_point(name="segment", fields=["number"])
    bars = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(height=36, cornerRadius=3, cursor="pointer")
        .encode(
            x=alt.X("start:Q", title="seconds", scale=alt.Scale(domain=[0, answer.duration_s])),
            x2="end:Q",
            color=alt.Color("label:N", title=None, legend=alt.Legend(orient="top")),
            opacity=alt.Opacity("opacity:Q", scale=None, legend=None),
            description="text:N",
            tooltip=["label:N", "from:N", "to:N", alt.Tooltip("confidence:Q", format=".1%")],
        )
        .add_params(chosen)
        .properties(height=140)
    )

    def clicked() -> None:
        points: Any = st.session_state[key]["selection"]["segment"]
        if points:
            jump(int(points[0]["number"]))

    st.altair_chart(bars, width="stretch", key=key, on_select=clicked)
    shown = list(enumerate(answer.segments))
    if len(shown) > MAX_BUTTONS:
        longest = sorted(shown, key=lambda item: item[1].start_s - item[1].end_s)
        shown = sorted(longest[:MAX_BUTTONS], key=lambda item: item[0])
        st.caption(f"The {MAX_BUTTONS} longest of {len(answer.segments):,} segments:")
    with st.container(horizontal=True, gap="small"):
        for number, segment in shown:
            _button(number, segment, class_names, jump)


def _button(
    number: int, segment: "Segment", class_names: list[str], jump: Callable[[int], None]
) -> None:
    st.button(
        f"{plain(clock(segment.start_s))} {plain(class_names[segment.label])}",
        key=f"segment-{number}",
        type="primary" if st.session_state.get("segment") == number else "secondary",
        on_click=jump,
        args=(number,),
    )


def stages(seconds: dict[str, float]) -> None:
    st.markdown("**Time per stage**")
    with st.container(horizontal=True, gap="large"):
        for name, stage_s in seconds.items():
            st.markdown(f"{name}  \n**{_duration(stage_s)}**", width="content")


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
