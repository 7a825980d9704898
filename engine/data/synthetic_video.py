"""Draws one synthetic clip or film: a figure that moves over a still background, encoded as HMDB51.

The state of the figure is its position in a box around the center, and its size. Motions are
cyclic and start at a random point, and what a motion doesn't change is random. So single frames
look the same in all classes, and only motion distinguishes them.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from engine.data.packed_avi import write_packed_avi

FPS = 30
SIZES = (
    (320, 240), (560, 240), (320, 240), (320, 240), (432, 240), (340, 256), (320, 240), (320, 240)
)  # fmt: skip
"""Width and height, cycled over the sources."""
SMALLEST_RADIUS, SIZE_RATIO = 24.0, 2.8
BOX = (80, 55)
"""Largest distance of the figure from the center of the frame in x and y, in pixels."""
SECONDS = (1.5, 4.0)
COURSES = (0.8, 1.5)
"""Number of cycles of a motion in one clip."""
FILM_PART_S = 8.0
SUPERSAMPLING = 2
LONE_REFERENCES = 0.2
"""Share of frames that are never B-frames; encoders use fewer B-frames where much moves."""

Quality = Literal["goo", "med", "bad"]
NOISE_BY_QUALITY: dict[Quality, float] = {"goo": 1.5, "med": 3.0, "bad": 6.0}

FIGURES: dict[str, list[tuple[float, float]]] = {
    "arrow": [(1, 0), (0.1, 0.75), (0.1, 0.3), (-1, 0.3), (-1, -0.3), (0.1, -0.3), (0.1, -0.75)],
    "ell": [(-0.7, -1), (-0.1, -1), (-0.1, 0.4), (0.8, 0.4), (0.8, 1), (-0.7, 1)],
    "tee": [(-1, -0.8), (1, -0.8), (1, -0.25), (0.3, -0.25), (0.3, 1), (-0.3, 1), (-0.3, -0.25),
            (-1, -0.25)],
    "wedge": [(1, 0), (-0.8, 0.65), (-0.8, -0.65)],
    "half disc": [(math.cos(a) * 0.95, math.sin(a) * 0.95 - 0.3)
                  for a in np.linspace(0, math.pi, 16)],
    "flag": [(-0.6, -1), (0.9, -0.6), (-0.2, 0), (-0.2, 1), (-0.6, 1)],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class State:
    """Position and size of the figure, from 0 to 1: left, top and smallest are 0."""

    x: float
    y: float
    size: float


Motion = Callable[[State, float, float], State]
"""Maps the start state, the (fractional) number of cycles since then and a random number from 0 to
1, constant for a clip, to the figure's state."""


def _sweep(axis: Literal["x", "y", "size"], direction: int) -> Motion:
    """From one end to the other, then again from the first."""
    return lambda start, course, _: dataclasses.replace(
        start, **{axis: (getattr(start, axis) + direction * course) % 1}
    )


def _swing(axis: Literal["x", "y"]) -> Motion:
    """Back and forth between the ends, twice in each cycle."""
    return lambda start, course, _: dataclasses.replace(
        start, **{axis: 1 - abs((2 * getattr(start, axis) + 4 * course) % 2 - 1)}
    )


def _circle(direction: int) -> Motion:
    def at(start: State, course: float, extent: float) -> State:
        angle = math.tau * (start.x + direction * course)
        radius = 0.35 + 0.15 * extent
        return State(
            x=0.5 + radius * math.cos(angle), y=0.5 + radius * math.sin(angle), size=start.size
        )

    return at


MOTIONS: dict[str, Motion] = {
    "move_left": _sweep("x", -1),
    "move_right": _sweep("x", 1),
    "turn_clockwise": _circle(1),
    "turn_anticlockwise": _circle(-1),
    "approach": _sweep("size", 1),
    "recede": _sweep("size", -1),
    "bounce": _swing("y"),
    "wave": _swing("x"),
    "move_up": _sweep("y", -1),
    "move_down": _sweep("y", 1),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the clips of one source share. The Y plane has full size, U and V have half."""

    background: tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]
    color: tuple[int, int, int]
    figure: str

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.background[0].shape
        return width, height


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draw a dark background and choose a bright figure, so that small models learn it easily."""
    width, height = size
    ys, xs = np.mgrid[0:height, 0:width] / height
    slope = rng.normal(0, 8, 2)
    waves = np.sin(xs * rng.uniform(2, 9) + rng.uniform(0, 6)) * np.cos(ys * rng.uniform(2, 9))
    luma = (
        rng.uniform(45, 95)
        + slope[0] * (xs - width / height / 2)
        + slope[1] * (ys - 0.5)
        + 4 * waves
    )
    half = (height // 2, width // 2)
    return Scene(
        background=(
            luma.astype(np.int16),
            np.full(half, rng.uniform(108, 148), np.int16),
            np.full(half, rng.uniform(108, 148), np.int16),
        ),
        color=(
            int(rng.uniform(175, 225)),
            int(rng.uniform(80, 176)),
            int(rng.uniform(80, 176)),
        ),
        figure=str(rng.choice(list(FIGURES))),
    )


def write_clip(
    path: Path,
    motion: str,
    scene: Scene,
    quality: Quality,
    rng: np.random.Generator,
    *,
    title: bytes | None = None,
) -> None:
    """Write a clip of 1.5 to 4 seconds that shows `motion`."""
    num_frames = round(rng.uniform(*SECONDS) * FPS)
    frames = _draw(motion, scene, quality, rng, num_frames, rng.uniform(*COURSES))
    _encode(path, frames, scene, rng, title)


def write_film(
    path: Path, motions: list[str], scene: Scene, quality: Quality, rng: np.random.Generator
) -> None:
    """Write a film that shows each of `motions` for `FILM_PART_S`, at the speed of the clips."""
    num_frames = round(FILM_PART_S * FPS)
    courses = FILM_PART_S * sum(COURSES) / sum(SECONDS)
    parts = (_draw(motion, scene, quality, rng, num_frames, courses) for motion in motions)
    _encode(path, itertools.chain.from_iterable(parts), scene, rng)


def _draw(
    motion: str,
    scene: Scene,
    quality: Quality,
    rng: np.random.Generator,
    num_frames: int,
    courses: float,
) -> Iterator[NDArray[np.uint8]]:
    """Yield frames as planes of yuv420p."""
    width, height = scene.size
    extent, angle = rng.uniform(0, 1), rng.uniform(0, math.tau)
    start = State(x=rng.uniform(0, 1), y=rng.uniform(0, 1), size=rng.uniform(0, 1))
    noise = rng.normal(0, NOISE_BY_QUALITY[quality], (height + 32, width + 32)).astype(np.int16)
    for index in range(num_frames):
        state = MOTIONS[motion](start, courses * index / num_frames, extent)
        top, left = rng.integers(0, 32, 2)
        yield _blend(scene, state, angle, noise[top : top + height, left : left + width])


def _encode(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    scene: Scene,
    rng: np.random.Generator,
    title: bytes | None = None,
) -> None:
    def video_frames() -> Iterator[av.VideoFrame]:
        for planes in frames:
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            if rng.uniform() < LONE_REFERENCES:
                frame.pict_type = PictureType.P
            yield frame

    write_packed_avi(path, video_frames(), size=scene.size, fps=FPS, title=title)


def _blend(scene: Scene, state: State, angle: float, noise: NDArray[np.int16]) -> NDArray[np.uint8]:
    width, height = scene.size
    left, top, mask = _draw_figure(scene, state, angle)
    luma, *chroma = (plane.copy() for plane in scene.background)
    _paint(luma, left, top, scene.color[0], mask)
    for plane, color in zip(chroma, scene.color[1:], strict=True):
        _paint(plane, left // 2, top // 2, color, mask.reduce(2))
    luma += noise
    planes = np.empty((height * 3 // 2, width), np.uint8)
    np.clip(luma, 16, 235, out=planes[:height], casting="unsafe")
    np.stack(chroma, out=planes[height:].reshape(2, height // 2, width // 2), casting="unsafe")
    return planes


def _draw_figure(scene: Scene, state: State, angle: float) -> tuple[int, int, Image.Image]:
    """Left and top of the figure's bounding box (both even), and its coverage mask, 0 to 255."""
    width, height = scene.size
    radius = SMALLEST_RADIUS * SIZE_RATIO**state.size
    x = width / 2 + (2 * state.x - 1) * BOX[0]
    y = height / 2 + (2 * state.y - 1) * BOX[1]
    cos, sin = math.cos(angle) * radius, math.sin(angle) * radius
    xs = [x + cos * px - sin * py for px, py in FIGURES[scene.figure]]
    ys = [y + sin * px + cos * py for px, py in FIGURES[scene.figure]]
    left, right = _even_bounds(xs, width)
    top, bottom = _even_bounds(ys, height)
    canvas = Image.new("L", ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING))
    ImageDraw.Draw(canvas).polygon(
        [
            ((px - left) * SUPERSAMPLING, (py - top) * SUPERSAMPLING)
            for px, py in zip(xs, ys, strict=True)
        ],
        fill=255,
    )
    return left, top, canvas.reduce(SUPERSAMPLING)


def _even_bounds(positions: list[float], end: int) -> tuple[int, int]:
    return max(0, int(min(positions)) // 2 * 2), min(end, int(max(positions)) // 2 * 2 + 2)


def _paint(plane: NDArray[np.int16], left: int, top: int, color: int, mask: Image.Image) -> None:
    part = plane[top : top + mask.height, left : left + mask.width]
    part += ((color - part) * (np.asarray(mask, np.int16) // 2)) >> 7
