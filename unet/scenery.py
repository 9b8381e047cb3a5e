"""What stands in the procedural drive's world: sprites, and where along the lap each is put.

A sprite has five premultiplied planes: red, green, blue, the share of its thing's own colour,
coverage. Colours are sRGB, 1 is white.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Rgb: TypeAlias = tuple[float, float, float]
Pyramid: TypeAlias = list[Floats]

LAP_M = 8192.0  # a whole number of bends, towns, dashes and soil tiles
TOWNS = 20  # a lap
SLOT_M = 12.8  # one roadside thing on each side; a whole number of slots a lap
ROAD_M, SHOULDER_M = 3.7, 0.7  # half widths, the shoulder's beyond the road's
SPRITE = 128  # texels

PAINT, TRUNK = (0.93, 0.93, 0.90), (0.30, 0.20, 0.12)
GLASS, DARK, POLE, ROOF = (0.13, 0.18, 0.25), (0.06, 0.06, 0.07), (0.5, 0.5, 0.5), (0.6, 0.25, 0.17)
RED, BLUE = (0.80, 0.07, 0.08), (0.07, 0.22, 0.66)
TAIL, BRAKE, HEADLIGHT = (0.60, 0.04, 0.05), (2.4, 0.20, 0.15), (1.8, 1.75, 1.5)  # above 1 glows
FOLIAGE = np.array([(0.30, 0.52, 0.14), (0.22, 0.44, 0.14), (0.42, 0.56, 0.15), (0.52, 0.50, 0.13)])
NEEDLES = np.array([(0.19, 0.40, 0.16)])
FACADES = np.array(
    [
        *((0.90, 0.80, 0.58), (0.80, 0.46, 0.30), (0.86, 0.66, 0.28), (0.55, 0.68, 0.82)),
        *((0.86, 0.60, 0.58), (0.62, 0.28, 0.22), (0.62, 0.72, 0.52), (0.92, 0.90, 0.86)),
    ]
)
CAR_PAINTS = np.array(
    [
        *((0.80, 0.08, 0.08), (0.10, 0.22, 0.70), (0.92, 0.92, 0.92), (0.10, 0.10, 0.12)),
        *((0.62, 0.64, 0.67), (0.95, 0.70, 0.08), (0.08, 0.45, 0.28), (0.90, 0.40, 0.08)),
    ]
)

# Indices into `sprites()`.
TREE, SPRUCE, BUSH, COTTAGE, HOUSE, FLATS = 0, 4, 6, 7, 8, 9
SIGN, LAMP, REAR, BRAKING, FRONT = 10, 12, 13, 14, 15


def town(along_m: float | Doubles) -> Doubles:
    """How much of a town this stretch is, in [0, 1]."""
    wave = np.sin(math.tau * TOWNS / LAP_M * np.asarray(along_m) + 2.0)
    return np.clip(8 * (wave - 0.3), 0, 1)


class _Painter:
    """Paints one sprite; x in [-1, 1] to the right, y in [0, 1] upwards."""

    def __init__(self) -> None:
        grid = (np.arange(2 * SPRITE, dtype=np.float32) + 0.5) / (2 * SPRITE)
        self.x, self.y = np.meshgrid(2 * grid - 1, grid[::-1])
        self.planes = np.zeros((5, *self.x.shape), np.float32)

    def paint(self, mask: Mask, colour: Rgb | None, shade: Any = 1.0, cover: float = 1.0) -> None:
        """Replace the masked texels by a colour (None: the thing's own) times shade.

        Args:
            mask: bool (2 * SPRITE, 2 * SPRITE).
            colour: sRGB.
            shade: a number or one for each texel.
            cover: opacity in [0, 1].
        """
        lit = cover * np.broadcast_to(shade, mask.shape)[mask]
        planes = (*(colour or (0, 0, 0)), float(colour is None))
        self.planes[:, mask] = [*(plane * lit for plane in planes), 0 * lit + cover]

    def box(self, x: float, y: float, half_x: float, half_y: float) -> Mask:
        return (abs(self.x - x) < half_x) & (abs(self.y - y) < half_y)

    def oval(self, x: float, y: float, half_x: float, half_y: float, power: int = 2) -> Mask:
        inside = ((self.x - x) / half_x) ** power + ((self.y - y) / half_y) ** power < 1
        return np.asarray(inside)

    def pyramid(self) -> Pyramid:
        """Levels of `SPRITE` texels, half of it ... 2; each flat, with a clear border one wide."""
        levels, planes = [], self.planes
        while (n := planes.shape[1] // 2) > 1:
            planes = planes.reshape(5, n, 2, n, 2).mean(axis=(2, 4))
            levels.append(np.pad(planes, ((0, 0), (1, 1), (1, 1))).reshape(5, -1))
        return levels


def _leafy(rng: np.random.Generator, trunk: float) -> Pyramid:
    """A tree of leafy balls lit from above; a bush where the trunk is 0."""
    p, middle = _Painter(), (trunk + 0.98) / 2
    leaves = 0.8 + 0.12 * rng.standard_normal(p.x.shape, np.float32)
    p.paint(p.oval(0, 0.02, 0.7, 0.03), DARK, cover=0.45)
    p.paint(p.box(0, trunk / 2, 0.06, trunk / 2 + 0.1), TRUNK)
    for height in sorted(rng.uniform(-1, 1, 40).tolist()):
        reach, radius = 0.76 * math.sqrt(1 - height**2), rng.uniform(0.07, 0.17)
        x, y = rng.uniform(-reach, reach), middle + height * (0.98 - middle - radius)
        lit = leaves + 0.25 * height + 1.6 * (p.y - y) - 0.25 * (p.x - x)
        p.paint(p.oval(x, y, 1.5 * radius, radius), None, lit)
    return p.pyramid()


def _spruce(rng: np.random.Generator) -> Pyramid:
    p = _Painter()
    needles = 0.8 + 0.10 * rng.standard_normal(p.x.shape, np.float32)
    p.paint(p.oval(0, 0.02, 0.6, 0.03), DARK, cover=0.45)
    p.paint(p.box(0, 0.1, 0.06, 0.1), TRUNK)
    for tier in range(7):
        low, high = 0.08 + 0.115 * tier, 0.32 + 0.11 * tier
        slope = (high - p.y) / (high - low)
        droop = 0.03 * np.sin(p.x * rng.uniform(20, 40) + tier)
        mask = (abs(p.x) < slope * (0.78 - 0.085 * tier)) & (p.y > low + droop)
        p.paint(mask, None, needles - 0.35 * slope - 0.25 * p.x + 0.05 * tier)
    return p.pyramid()


def _facade(columns: int, floors: int, eaves: float, *, gable: bool = False) -> Pyramid:
    """Windows up to the eaves, then a tiled roof; a gable narrows it to a point."""
    p = _Painter()
    p.paint(p.y < 0.99, ROOF, 0.9 + 0.1 * np.sin(p.y * 150))
    p.paint(p.y < eaves, None, 0.86 + 0.14 * p.y)
    if gable:
        p.paint((p.y > eaves) & (abs(p.x) < (0.92 - p.y) / (1 - eaves)), None, 0.95)
        p.paint(abs(p.x) > (1 - p.y) / (1 - eaves), None, 0.0, cover=0.0)
    p.paint(p.y < 0.05, None, 0.6)
    half_x, half_y = 0.5 / columns, 0.27 * eaves / floors
    for floor in range(floors):
        for column in range(columns):
            x, y = (2 * column + 1) / columns - 1, eaves * (floor + 0.55) / floors
            p.paint(p.box(x, y, 1.2 * half_x, 1.15 * half_y), PAINT, 0.85)
            p.paint(p.box(x, y, half_x, half_y), GLASS, 0.8 + 0.9 * p.y)
    return p.pyramid()


def _car(lights: Rgb, *, front: bool = False) -> Pyramid:
    p = _Painter()
    taper = 0.80 - 0.5 * (p.y - 0.5)
    p.paint(p.oval(0, 0.06, 0.99, 0.06), DARK, cover=0.6)
    p.paint(p.box(-0.68, 0.14, 0.15, 0.11) | p.box(0.68, 0.14, 0.15, 0.11), DARK)
    p.paint((abs(p.y - 0.73) < 0.24) & (abs(p.x) < taper), None, 0.6 + 0.5 * p.y)
    p.paint((abs(p.y - 0.75) < 0.15) & (abs(p.x) < taper - 0.1), GLASS, 0.2 + 1.6 * p.y)
    p.paint(p.oval(0, 0.38, 0.92, 0.25, 6), None, 0.45 + 0.95 * p.y)
    p.paint(p.box(0, 0.19, 0.80, 0.05), DARK, 2.5)
    if front:
        p.paint(p.oval(0, 0.34, 0.42, 0.06, 4), DARK, 1.5)
    p.paint(p.box(0, 0.27, 0.20, 0.035), PAINT)
    p.paint(p.oval(-0.72, 0.44, 0.17, 0.075, 4) | p.oval(0.72, 0.44, 0.17, 0.075, 4), lights)
    return p.pyramid()


def _sign(rim: Rgb) -> Pyramid:
    p = _Painter()
    p.paint(p.box(0, 0.4, 0.05, 0.4), POLE)
    p.paint(p.oval(0, 0.84, 0.62, 0.15), rim)
    p.paint(p.oval(0, 0.84, 0.42, 0.10), PAINT)
    return p.pyramid()


def _lamp() -> Pyramid:
    p = _Painter()
    p.paint(p.box(0, 0.48, 0.04, 0.48) | p.box(0, 0.97, 0.6, 0.008), POLE, 0.7)
    p.paint(p.oval(-0.55, 0.965, 0.2, 0.015) | p.oval(0.55, 0.965, 0.2, 0.015), HEADLIGHT)
    return p.pyramid()


@cache
def sprites() -> list[Pyramid]:
    """The same for every drive, so painted once a process; drives differ in what stands where."""
    rng = np.random.default_rng(0)
    return [
        *(_leafy(rng, trunk) for trunk in (0.30, 0.22, 0.34, 0.26)),
        *(_spruce(rng), _spruce(rng), _leafy(rng, 0.0)),
        *(_facade(3, 2, 0.55, gable=True), _facade(4, 2, 0.74), _facade(4, 4, 0.95)),
        *(_sign(RED), _sign(BLUE), _lamp()),
        *(_car(TAIL), _car(BRAKE), _car(HEADLIGHT, front=True)),
    ]


def quad(
    sprite: int,
    along_m: tuple[float, float],
    right_m: tuple[float, float],
    height_m: float,
    colour: Doubles,
    shade: float = 1.0,
) -> list[float]:
    """An upright rectangle of the world by its two vertical edges.

    `along_m` is their places along the lap, equal where it faces the camera; `right_m` is right of
    the centre line. A plain row of numbers, so that a whole scene is projected at once.
    """
    return [*along_m, *right_m, height_m, shade, *colour.tolist(), sprite]


def upright(
    sprite: int, along_m: float, right_m: float, width_m: float, height_m: float, colour: Doubles
) -> list[float]:
    """A quad facing the camera, its middle `right_m` right of the centre line."""
    edges_m = (right_m - width_m / 2, right_m + width_m / 2)
    return quad(sprite, (along_m, along_m), edges_m, height_m, colour)


def pick(rng: np.random.Generator, palette: Doubles) -> Doubles:
    """One colour of a palette (n, 3), a little off."""
    return np.asarray(rng.choice(palette) * rng.uniform(0.9, 1.1, 3))


def _house(rng: np.random.Generator, sprite: int, along_m: float, side: int) -> list[list[float]]:
    """A front and the wall that runs along the road."""
    colour, width_m, near_m = pick(rng, FACADES), rng.uniform(8, 12), rng.uniform(7.5, 10)
    height_m = rng.uniform(6, 8) if sprite == HOUSE else rng.uniform(10, 12)
    wall_m = (side * near_m, side * near_m)
    wall = quad(sprite, (along_m, along_m + 10), wall_m, height_m, colour, 0.72)
    right_m = side * (near_m + width_m / 2)
    return [wall, upright(sprite, along_m, right_m, width_m, height_m, colour)]


def roadside(rng: np.random.Generator) -> list[Doubles]:
    """Everything that stands along one lap, as rows of `quad`, slot by slot."""
    tables = []
    for slot in range(round(LAP_M / SLOT_M)):
        quads = []
        for side in (-1, 1):
            along_m = SLOT_M * slot + rng.uniform(0, 1.5)
            urban = float(town(along_m)) > 0.5
            lot, away_m = rng.random(), side * rng.uniform(7, 12)
            if urban and lot < 0.75:
                quads += _house(rng, FLATS if lot < 0.25 else HOUSE, along_m, side)
            elif lot < 0.80:
                spruce, tall_m = slot % 16 < 5, rng.uniform(5.5, 10)
                sprite = SPRUCE + slot % 2 if spruce else TREE + int(rng.integers(4))
                colour = pick(rng, NEEDLES if spruce else FOLIAGE)
                width_m = tall_m * (0.55 if spruce else 0.8)
                quads.append(upright(sprite, along_m, away_m, width_m, tall_m, colour))
            elif lot < 0.92:
                quads.append(upright(BUSH, along_m, away_m, 3.2, 1.9, pick(rng, FOLIAGE)))
            else:
                colour = pick(rng, FACADES)
                quads.append(upright(COTTAGE, along_m, away_m + side * 9, 9.0, 6.5, colour))
            if slot % 4 == side + 1:
                post = (LAMP, 2.0, 7.0) if urban else (SIGN + slot // 4 % 2, 0.9, 2.9)
                post_m = side * (ROAD_M + SHOULDER_M + 0.5)
                quads.append(upright(post[0], along_m + 4, post_m, *post[1:], np.array(POLE)))
            if side == 1 and rng.random() < (0.45 if urban else 0.10):
                quads.append(upright(REAR, along_m + 6, 5.0, 2.0, 1.6, pick(rng, CAR_PAINTS)))
        tables.append(np.array(quads))
    return tables
