"""One synthetic clip, or film: a figure that moves over a still background, as MPEG-4 in AVI.

The state of the figure is a place in a box around the middle, and a size. Every motion runs through
states that all the others draw at random too, and starts anywhere in its course (what has reached
the end begins again), so that a single frame looks the same in every class, and only motion tells
them apart.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDTH, HEIGHT, FPS = 320, 240, 30
SMALLEST_RADIUS, SIZE_RATIO = 24.0, 2.8
BOX = (80, 55)
"""How far from the middle the figure's centre goes, across and down."""
SECONDS = (1.5, 4.0)
COURSES = (0.8, 1.5)
"""How often a motion runs its course in one clip: its speed."""
FILM_PART_S = 8.0
SUPERSAMPLING = 2

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
    """All from 0 to 1: left to right, top to bottom, smallest to largest."""

    x: float
    y: float
    size: float


Motion = Callable[[State, float, float], State]
"""The figure's state, from where it started, how many times the motion ran its course since (not
whole), and a number from 0 to 1 that is one for the clip."""


def _sweep(axis: Literal["x", "y", "size"], direction: int) -> Motion:
    """From one end to the other; then again from the first."""
    return lambda start, course, _: dataclasses.replace(
        start, **{axis: (getattr(start, axis) + direction * course) % 1}
    )


def _swing(axis: Literal["x", "y"]) -> Motion:
    """To and fro between the ends, twice as often as a sweep goes by."""
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
    """What the clips of one source share. Planes are Y at full size, U and V at half."""

    background: tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]
    colour: tuple[int, int, int]
    figure: str


def draw_scene(rng: np.random.Generator) -> Scene:
    """A bright figure on a dark ground, so that a small network sees it at once."""
    ys, xs = np.mgrid[0:HEIGHT, 0:WIDTH] / HEIGHT
    slope = rng.normal(0, 8, 2)
    waves = np.sin(xs * rng.uniform(2, 9) + rng.uniform(0, 6)) * np.cos(ys * rng.uniform(2, 9))
    luma = rng.uniform(45, 95) + slope[0] * (xs - 0.66) + slope[1] * (ys - 0.5) + 4 * waves
    half = (HEIGHT // 2, WIDTH // 2)
    return Scene(
        background=(
            luma.astype(np.int16),
            np.full(half, rng.uniform(108, 148), np.int16),
            np.full(half, rng.uniform(108, 148), np.int16),
        ),
        colour=(
            int(rng.uniform(175, 225)),
            int(rng.uniform(80, 176)),
            int(rng.uniform(80, 176)),
        ),
        figure=str(rng.choice(list(FIGURES))),
    )


def write_clip(
    path: Path, motion: str, scene: Scene, quality: Quality, rng: np.random.Generator
) -> None:
    num_frames = round(rng.uniform(*SECONDS) * FPS)
    _encode(path, _draw(motion, scene, quality, rng, num_frames, rng.uniform(*COURSES)))


def write_film(
    path: Path, motions: list[str], scene: Scene, quality: Quality, rng: np.random.Generator
) -> None:
    """One motion after the other, each as fast as in the clips and for `FILM_PART_S`."""
    num_frames = round(FILM_PART_S * FPS)
    courses = FILM_PART_S * sum(COURSES) / sum(SECONDS)
    parts = (_draw(each, scene, quality, rng, num_frames, courses) for each in motions)
    _encode(path, itertools.chain.from_iterable(parts))


def _draw(
    motion: str,
    scene: Scene,
    quality: Quality,
    rng: np.random.Generator,
    num_frames: int,
    courses: float,
) -> Iterator[NDArray[np.uint8]]:
    """Frame by frame, as the planes of yuv420p."""
    extent, angle = rng.uniform(0, 1), rng.uniform(0, math.tau)
    start = State(x=rng.uniform(0, 1), y=rng.uniform(0, 1), size=rng.uniform(0, 1))
    noise = rng.normal(0, NOISE_BY_QUALITY[quality], (HEIGHT + 32, WIDTH + 32)).astype(np.int16)
    for index in range(num_frames):
        state = MOTIONS[motion](start, courses * index / num_frames, extent)
        mask = _draw_figure(scene.figure, state, angle)
        top, left = rng.integers(0, 32, 2)
        yield _blend(scene, mask, noise[top : top + HEIGHT, left : left + WIDTH])


def _encode(path: Path, pictures: Iterable[NDArray[np.uint8]]) -> None:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1  # the same seed writes the same bytes
        stream.codec_context.max_b_frames = 2
        stream.codec_context.gop_size = 50
        stream.codec_context.bit_rate = 800_000
        for index, planes in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _draw_figure(figure: str, state: State, angle: float) -> Image.Image:
    """The figure as coverage, 0 to 255."""
    radius = SMALLEST_RADIUS * SIZE_RATIO**state.size
    x = WIDTH / 2 + (2 * state.x - 1) * BOX[0]
    y = HEIGHT / 2 + (2 * state.y - 1) * BOX[1]
    cos, sin = math.cos(angle) * radius, math.sin(angle) * radius
    canvas = Image.new("L", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING))
    ImageDraw.Draw(canvas).polygon(
        [
            ((x + cos * px - sin * py) * SUPERSAMPLING, (y + sin * px + cos * py) * SUPERSAMPLING)
            for px, py in FIGURES[figure]
        ],
        fill=255,
    )
    return canvas.reduce(SUPERSAMPLING)


def _blend(scene: Scene, mask: Image.Image, noise: NDArray[np.int16]) -> NDArray[np.uint8]:
    planes = np.empty((HEIGHT * 3 // 2, WIDTH), np.uint8)
    coverages = [np.asarray(mask, np.int16), np.asarray(mask.reduce(2), np.int16)]
    luma = _over(scene.background[0], scene.colour[0], coverages[0]) + noise
    planes[:HEIGHT] = np.clip(luma, 16, 235)
    chroma = planes[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    chroma[0] = _over(scene.background[1], scene.colour[1], coverages[1])
    chroma[1] = _over(scene.background[2], scene.colour[2], coverages[1])
    return planes


def _over(
    background: NDArray[np.int16], colour: int, coverage: NDArray[np.int16]
) -> NDArray[np.int16]:
    return background + (((colour - background) * (coverage // 2)) >> 7)
