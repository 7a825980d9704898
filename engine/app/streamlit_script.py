"""The script that Streamlit runs for each visitor and each click."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from engine.app.page import Model


@st.cache_resource(show_spinner=False)
def open_model(path: str, device: str) -> "Model":
    """Open a model and warm it up, once for all visitors."""
    from engine.app.page import Model
    from engine.memory import keep_freed_memory
    from engine.predictor import open_predictor

    predictor = open_predictor(Path(path), device)
    if predictor.device.type == "cpu":
        keep_freed_memory()
    predictor.warm_up(1)
    return Model(
        name=Path(path).name,
        run=predictor,
        clip=predictor.clip,
        class_names=predictor.class_names,
        runs_on=predictor.runs_on,
        gpu=predictor.device.index,
    )


def main() -> None:
    # Streamlit adds this folder to sys.path, where our modules could hide others of equal name.
    folder = str(Path(__file__).parent)
    if folder in sys.path:
        sys.path.remove(folder)
    from engine.app.page import show
    from engine.app.site import Site

    show(Site.from_json(sys.argv[1]), open_model)


if __name__ == "__main__":
    main()
