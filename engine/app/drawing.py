"""How the parts of an answer look on the page."""

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
"""For segments; where there are more, the longest have one, and the timeline has all."""
MAX_IN_ROW = 16
"""Frames of a strip."""


def plain(text: str) -> str:
    """As Markdown that shows the words as they are, whoever chose them."""
    one_line = re.sub(r"\s+", " ", text)
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", one_line)


def label_and_bars(answer: Answer, class_names: list[str]) -> None:
    best, share = answer.top[0]
    st.metric(
        "The whole video, its mean" if answer.segments else "This video",
        class_names[best],
        f"{share:.1%} sure",
        delta_color="off",
        delta_arrow="off",
    )
    for number, each in answer.top:
        st.progress(min(1.0, each), f"{plain(class_names[number])} · {each:.1%}")


def frames(strip: Strip, title: str) -> None:
    st.markdown(f"**{title}**")
    pictures = "".join(
        f'<img style="width:100%;border-radius:4px" alt="frame {number}" src="{embed_jpeg(data)}">'
        for number, data in enumerate(strip.frames, 1)
    )
    columns = f"repeat({min(MAX_IN_ROW, len(strip.frames))},minmax(0,120px))"
    style = f"display:grid;grid-template-columns:{columns};gap:4px;line-height:0"
    st.html(f'<div style="{style}">{pictures}</div>')
    st.caption(
        f"The {len(strip.frames)} frames that the model saw, as it saw them, "
        f"of {strip.start_s:.1f} s to {strip.end_s:.1f} s."
    )


def timeline(
    answer: Answer, class_names: list[str], jump: Callable[[int], None], *, key: str
) -> None:
    """Bars and buttons; each makes the player jump, by the number of the segment.

    A bar stays chosen under its `key`, and couldn't be clicked on again.
    """
    import altair as alt

    st.markdown("**Who does what when** – click on a segment to see it")
    before = st.session_state.get("segment")
    rows = [
        {
            "number": number,
            "start": each.start_s,
            "end": each.end_s,
            "label": class_names[each.label],
            "from": clock(each.start_s),
            "to": clock(each.end_s),
            "sure": each.confidence,
            "words": f"{class_names[each.label]}, {clock(each.start_s)} to {clock(each.end_s)}",
            "opacity": 1.0 if before in (None, number) else 0.45,
        }
        for number, each in enumerate(answer.segments)
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
            description="words:N",
            tooltip=["label:N", "from:N", "to:N", alt.Tooltip("sure:Q", format=".1%")],
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
    st.markdown("**What took how long**")
    with st.container(horizontal=True, gap="large"):
        for name, each in seconds.items():
            st.markdown(f"{name}  \n**{_duration(each)}**", width="content")


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
