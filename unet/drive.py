"""The procedural drive: dash-cam frames of a made-up road, the embedded default data.

The world is a closed road of `LAP_M` metres, laid out once per seed in metres, so every size shows
the same scene; a frame follows from (seed, index) alone. Sky, vegetation and road get their colour
from what they are; the paint of cars and houses is drawn by lot. Colours are sRGB, 1 is white.

Drawing is planar float32. Light, haze and a thing's own colour are one matrix on the five planes of
its sprite (see `scenery`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unet.scenery import (
    BRAKING,
    CAR_PAINTS,
    FRONT,
    LAP_M,
    PAINT,
    REAR,
    ROAD_M,
    SHOULDER_M,
    SLOT_M,
    SPRITE,
    Doubles,
    Floats,
    Rgb,
    pick,
    roadside,
    sprites,
    town,
    upright,
)

MIN_SIZE = 16
BENDS = ((8.0, 26), (2.2, 47))  # (metres to the side, waves a lap)
SPEED_M, ONCOMING_M, ONCOMING_GAP_M = 0.8, 1.9, 75.0  # a frame; a frame, both speeds; between cars
LEAD_PERIOD, DAY_PERIOD = 520, 320  # frames
CAMERA_M, LANE_M = 2.2, 1.7  # above the road, right of the centre line
FOCAL, HORIZON = 1.3, 0.46  # in half image widths; in image heights from the top
NEAR_M, FAR_M, FADE_M = 2.6, 110.0, 30.0
HAZE_M, HAZE_MAX = 130.0, 0.6
LINE_M = 0.09  # half width
DASH_M, DASH_PERIOD_M = 1.6, 8.0  # half length; from dash to dash
TILE, NOISE_PAD = 512, 64  # texels, pixels
NOISE = 0.009

GRASS, FIELD, PAVEMENT = (0.31, 0.50, 0.13), (0.72, 0.62, 0.25), (0.60, 0.55, 0.49)
ASPHALT, GRAVEL = (0.37, 0.37, 0.40), (0.58, 0.49, 0.35)
HILLS, WOODS = (0.33, 0.45, 0.55), (0.16, 0.31, 0.13)
DAY = np.array(
    [  # zenith, low sky, light on things, (sun above horizon in image heights, its glow, clouds)
        [(0.16, 0.42, 0.90), (0.62, 0.82, 0.98), (1.05, 1.03, 0.98), (0.60, 0.25, 0.00)],  # noon
        [(0.20, 0.46, 0.88), (0.72, 0.84, 0.93), (1.03, 0.99, 0.90), (0.32, 0.45, 0.25)],
        [(0.30, 0.44, 0.74), (0.99, 0.70, 0.38), (1.04, 0.82, 0.56), (0.09, 0.80, 0.10)],  # golden
        [(0.17, 0.20, 0.46), (0.80, 0.46, 0.40), (0.56, 0.50, 0.58), (-0.04, 0.45, 0.20)],  # dusk
        [(0.32, 0.52, 0.84), (0.92, 0.82, 0.68), (0.92, 0.88, 0.80), (0.18, 0.50, 0.10)],  # morning
    ]
)


class _Sky(NamedTuple):
    """One moment of the day; colours are float32 (3, 1, 1)."""

    zenith: Floats
    low: Floats
    light: Floats
    sun_height: float
    glow: float
    clouds: float


def _texture(rng: np.random.Generator, roughness: float) -> Floats:
    """A periodic cloudy tile, float32 (TILE, TILE), mean 0, standard deviation 1."""
    wave_y, wave_x = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)
    falloff = (wave_y**2 + wave_x**2 + (2 / TILE) ** 2) ** (-roughness / 2)
    tile = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * falloff)
    return np.asarray((tile - tile.mean()) / tile.std(), np.float32)


def _heading(along_m: float) -> float:
    """The road's slope on the map, metres to the right per metre ahead."""
    waves = ((side_m, math.tau * n / LAP_M) for side_m, n in BENDS)
    return math.fsum(side_m * k * math.cos(k * along_m) for side_m, k in waves)


def _sway_m(along_m: float, ahead_m: Doubles) -> Doubles:
    """How far right of the car's straight course the road lies, in metres, `ahead_m` ahead."""
    sway_m = -_heading(along_m) * ahead_m
    for side_m, n in BENDS:
        k = math.tau * n / LAP_M
        sway_m += side_m * (np.sin(k * (along_m + ahead_m)) - math.sin(k * along_m))
    return sway_m


def _covered(distance: Floats | Doubles, half: float, footprint: Floats) -> Floats:
    """Share of each pixel's footprint under a stripe of half width `half`; all in metres."""
    reach = half / footprint
    share = reach + 0.5 - (np.abs(distance) / footprint).astype(np.float32)
    covered: Floats = np.minimum(np.maximum(share, 0), np.minimum(1, 2 * reach))
    return covered


def _tints(near_m: Doubles, colour: Doubles, shade: Doubles, sky: _Sky) -> Floats:
    """Matrices float32 (n, 4, 5) from a sprite's planes to lit, hazy, premultiplied RGB and cover.

    Args:
        near_m: metres ahead, (n, 1).
        colour: the things' own, (n, 3).
        shade: factor on their light, (n, 1).
        sky: gives light and haze.
    """
    haze = HAZE_MAX * (1 - np.exp(-near_m / HAZE_M))
    light = sky.light.ravel() * (1 - haze) * shade
    tints = np.zeros((len(near_m), 4, 5))
    tints[:, [0, 1, 2], [0, 1, 2]] = light
    tints[:, :3, 3] = light * colour
    tints[:, :3, 4] = haze * sky.low.ravel()
    tints[:, 3, 4] = 1
    tints *= np.minimum(1, (FAR_M - near_m[..., None]) / FADE_M)  # nothing pops up
    return tints.astype(np.float32)


def _column(rgb: Rgb) -> Floats:
    return np.array(rgb, np.float32)[:, None, None]


def _require_at_least(name: str, value: int, low: int) -> None:
    if not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name} must be an integer >= {low}, got {value!r}")


class Drive:
    """One endless drive, rendered at one size.

    Args:
        size: height and width of the frames in pixels, >= 16.
        seed: which drive, >= 0.

    Raises:
        ValueError: size or seed is out of range.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        _require_at_least("size", size, MIN_SIZE)
        _require_at_least("seed", seed, 0)
        self.size, self.seed = int(size), int(seed)
        rng = np.random.default_rng(self.seed)
        self._soil, self._clouds = _texture(rng, 1.0).ravel(), _texture(rng, 1.7).ravel()
        self._phase = [float(phase) for phase in rng.uniform(0, math.tau, 7)]
        self._sprites, self._roadside = sprites(), roadside(rng)
        self._paints = [pick(rng, CAR_PAINTS) for _ in range(256)]
        self._gaps_m = rng.uniform(-25, 25, 256)

        grid = (3, self.size + NOISE_PAD, self.size + NOISE_PAD)
        speckle = rng.standard_normal(grid[1:]) + 0.5 * rng.standard_normal(grid)
        self._noise = (255 * NOISE * speckle + 0.5).astype(np.float32)  # 0.5 rounds
        self._project()

    def render(self, index: int) -> npt.NDArray[np.uint8]:
        """Render one frame.

        Args:
            index: frame number, >= 0; the car moves `SPEED_M` metres a frame.

        Returns:
            uint8 (size, size, 3), sRGB, RGB order.

        Raises:
            ValueError: index is negative or not an integer.
        """
        _require_at_least("index", index, 0)
        index, along_m = int(index), int(index) * SPEED_M % LAP_M
        canvas, sky = np.empty((3, self.size, self.size), np.float32), self._sky(index)
        self._draw_sky(canvas[:, : self._first], along_m, index, sky)
        canvas[:, self._first :] = self._ground(along_m, sky)
        self._draw_quads(canvas, along_m, index, sky)
        return self._develop(canvas, index)

    def _project(self) -> None:
        """Prepare what depends on the pixel grid alone; rows of ground begin at `_first`."""
        size = self.size
        self._pixel = np.arange(size, dtype=np.float32) + np.float32(0.5)
        self._x = 2 * self._pixel / size - 1
        self._down = self._pixel[:, None] - HORIZON * size  # pixels below the horizon, (size, 1)
        self._first = math.ceil(HORIZON * size - 0.5)
        self._vignette = 1 - 0.1 * (self._x**2 + self._x[:, None] ** 2)

        scale = FOCAL * size / 2  # pixels, of a metre one metre away
        depth_m = np.minimum(scale * CAMERA_M / self._down[self._first :], 500)
        self._depth_m = depth_m.astype(np.float64)
        self._right_m = self._x * depth_m / FOCAL + LANE_M  # of the centre line, (rows, size)
        self._across_m, self._ahead_m = depth_m / scale, depth_m**2 / (scale * CAMERA_M)
        self._haze = HAZE_MAX * (1 - np.exp(-depth_m / HAZE_M))
        self._grain = np.exp(-depth_m / 14)

        self._rise = -self._down[: self._first] / (HORIZON * size)  # 1 at the top of the sky
        self._cloud_x = 90 * self._x / (self._rise + 0.25)
        self._cloud_y = (70 / (self._rise + 0.25)).astype(np.int32)
        self._open = np.minimum(1, 3 * self._rise)  # clouds thin out at the horizon

    def _sky(self, index: int) -> _Sky:
        """This frame's moment between two rows of `DAY`."""
        hour = (index / DAY_PERIOD * len(DAY) + self._phase[0]) % len(DAY)
        now, share = int(hour), hour % 1
        row = (1 - share) * DAY[now] + share * DAY[(now + 1) % len(DAY)]
        zenith, low, light = row[:3].astype(np.float32)[..., None, None]
        return _Sky(zenith, low, light, *(float(value) for value in row[3]))

    def _draw_sky(self, canvas: Floats, along_m: float, index: int, sky: _Sky) -> None:
        """Gradient, sun, clouds, hills and woods; all turn with the car's heading."""
        turn = FOCAL * _heading(along_m)
        canvas[:] = sky.low + self._rise**0.7 * (sky.zenith - sky.low)

        sun_x = 0.45 * math.cos(math.tau * index / DAY_PERIOD + self._phase[1]) - turn
        away = (self._x - sun_x) ** 2 + (2 * HORIZON * self._rise - 2 * sky.sun_height) ** 2
        canvas += (0.036 * sky.glow) / (away + 0.06) * (sky.light - 0.35)
        canvas += sky.glow * np.clip((0.012 - away) * 150, 0, 1)

        texel_x = (self._cloud_x + (90 * turn + 0.25 * index) % TILE).astype(np.int32) & (TILE - 1)
        texel_y = (self._cloud_y + index // 8 % TILE) & (TILE - 1)
        puff = self._clouds.take(texel_y * TILE + texel_x) + (sky.clouds - 0.45)
        bright = 0.55 * sky.light + 0.35 * sky.low + 0.12
        canvas += self._open * np.clip(0.9 * puff, 0, 0.9) * (bright - canvas)

        bearing, band = self._x + turn, canvas[:, -int(0.15 * self.size) :]
        up = -self._down[self._first - band.shape[1] : self._first]
        for height, waves, colour, clear in ((0.07, 3.0, HILLS, 0.55), (0.035, 9.0, WOODS, 0.75)):
            crest = 1 + 0.4 * np.sin(waves * bearing + self._phase[2])
            crest += 0.3 * np.sin(2.7 * waves * bearing + self._phase[3])
            crest += 0.1 * np.sin(9.1 * waves * bearing)
            cover = np.clip(height * self.size * crest - up + 0.5, 0, 1)
            band += cover * (clear * _column(colour) * sky.light + (1 - clear) * sky.low - band)

    def _ground(self, along_m: float, sky: _Sky) -> Floats:
        """Verges, fields and the marked road, float32 (3, rows, size)."""
        right_m = self._right_m - _sway_m(along_m, self._depth_m).astype(np.float32)
        far_m, away_m = along_m + self._depth_m, abs(right_m)
        fine = self._grain * self._soil_at(right_m, far_m, 24)
        coarse = self._soil_at(right_m, far_m, 2)
        field = np.clip(3 * self._soil_at(right_m, far_m, 0.25), 0, 0.8)
        field *= np.clip(0.3 * away_m - 3.6, 0, 1)
        pavement = town(far_m).astype(np.float32) * np.clip(28 - 2 * away_m, 0, 1)

        phase_m = (far_m + DASH_PERIOD_M / 2) % DASH_PERIOD_M - DASH_PERIOD_M / 2
        dash = _covered(phase_m, DASH_M, self._ahead_m)
        dash[self._ahead_m > DASH_PERIOD_M] = 2 * DASH_M / DASH_PERIOD_M
        dashes = dash * _covered(right_m, LINE_M, self._across_m)
        lines = np.maximum(dashes, _covered(away_m - ROAD_M + 0.3, LINE_M, self._across_m))
        soft = 1 + 0.10 * (coarse + fine)
        hard = 0.6 + 0.4 * soft
        layers: list[tuple[Rgb, float | Floats, float | Floats]] = [  # top down
            (PAINT, lines, 1.0),
            (ASPHALT, _covered(away_m, ROAD_M, self._across_m), hard),
            (GRAVEL, _covered(away_m, ROAD_M + SHOULDER_M, self._across_m), soft),
            (PAVEMENT, pavement, hard),
            (FIELD, field, soft),
            (GRASS, 1.0, soft),
        ]
        shares, left = np.empty((len(layers) + 1, *right_m.shape), np.float32), 1 - self._haze
        for share, (_, cover, shade) in zip(shares, layers, strict=False):
            seen = left * cover
            np.multiply(seen, shade, out=share)
            left = left - seen
        shares[-1] = self._haze
        colours = [_column(colour) * sky.light for colour, _, _ in layers]
        mixed = np.stack([*colours, sky.low]).reshape(-1, 3).T @ shares.reshape(len(shares), -1)
        return mixed.reshape(3, *right_m.shape)

    def _soil_at(self, right_m: Floats, far_m: Doubles, texels_per_m: float) -> Floats:
        texel_x = (right_m * texels_per_m + 64 * TILE).astype(np.int32) & (TILE - 1)
        texel_y = (far_m * texels_per_m).astype(np.int32) & (TILE - 1)
        return self._soil.take(texel_y * TILE + texel_x)

    def _traffic(self, along_m: float, index: int) -> Doubles:
        """Four oncoming cars and the one in front, as rows of `quad`."""
        gone_m = ONCOMING_M * index
        cars = []
        for car in range(int(gone_m / ONCOMING_GAP_M), int(gone_m / ONCOMING_GAP_M) + 4):
            ahead_m = car * ONCOMING_GAP_M + self._gaps_m[car % 256] - gone_m
            if ahead_m > 0:
                place = (along_m + ahead_m, -LANE_M, 2.0, 1.6)
                cars.append(upright(FRONT, *place, self._paints[car % 256]))
        turn = index / LEAD_PERIOD + self._phase[4] / math.tau
        ahead_m = 60 + 48 * math.cos(math.tau * turn)
        sprite = BRAKING if turn % 1 < 0.5 and ahead_m < 75 else REAR
        paint = self._paints[int(turn) % 256]
        cars.append(upright(sprite, along_m + ahead_m, LANE_M, 2.0, 1.6, paint))
        return np.array(cars)

    def _standing(self, along_m: float, index: int) -> tuple[Doubles, Doubles]:
        """Rows of `quad` in view and metres ahead (n, 2) of their edges, far to near."""
        here = int(along_m / SLOT_M)
        slots = range(here - 1, here + 1 + math.ceil(FAR_M / SLOT_M))
        tables = [self._roadside[slot % len(self._roadside)] for slot in slots]
        quads = np.concatenate([*tables, self._traffic(along_m, index)])
        ahead_m = (quads[:, :2] - along_m + SLOT_M) % LAP_M - SLOT_M
        order = np.argsort(-ahead_m[:, 0], kind="stable")
        order = order[((ahead_m[:, 1] > NEAR_M) & (ahead_m[:, 0] < FAR_M))[order]]
        return quads[order], ahead_m[order]

    def _draw_quads(self, canvas: Floats, along_m: float, index: int, sky: _Sky) -> None:
        """Everything that stands up; geometry for all of it at once, then quad by quad."""
        quads, ahead_m = self._standing(along_m, index)
        _, right_m, height_m, shade, colour, sprite = np.split(quads, (2, 4, 5, 6, 9), axis=1)
        depth_m = np.maximum(ahead_m, NEAR_M)  # a wall passing the camera is cut
        near_m = depth_m[:, :1]
        cut = (near_m - ahead_m[:, :1]) / np.maximum(ahead_m[:, 1:] - ahead_m[:, :1], 1e-9)
        scale = FOCAL * self.size / 2
        x = self.size / 2 + scale * (right_m + _sway_m(along_m, depth_m) - LANE_M) / depth_m
        foot = HORIZON * self.size + scale * CAMERA_M / near_m
        tall = scale * height_m / near_m
        edges = [x.min(axis=1), x.max(axis=1), (foot - tall)[:, 0], foot[:, 0]]
        bounds = np.clip(np.ceil(np.stack(edges, axis=1) - 0.5), 0, self.size).astype(int)
        levels = np.clip(np.log2(SPRITE / tall), 0, math.log2(SPRITE) - 1).astype(int)

        # On the screen 1 / depth and place / depth are linear in x; place runs from cut to 1.
        width = x[:, 1:] - x[:, :1]
        t = (self._pixel - x[:, :1]) / np.where(width == 0, 1, width)
        inverse = np.maximum((1 - t) / near_m + t / depth_m[:, 1:], 1e-3)
        place = ((1 - t) * cut / near_m + t / depth_m[:, 1:]) / inverse
        texels = SPRITE >> levels
        columns = np.clip(place * texels + 1, 0, texels + 1).astype(np.intp)
        stretch = (texels / (scale * height_m * inverse)).astype(np.float32)
        ground = texels + 1 - CAMERA_M * texels / height_m

        tints = _tints(near_m, colour, shade, sky)
        lists = zip(*np.hstack([levels, sprite, bounds]).astype(int).T.tolist(), strict=True)
        for i, (level, kind, c0, c1, r0, r1) in enumerate(lists):
            if c0 == c1 or r0 == r1:
                continue
            n = SPRITE >> level
            row = self._down[r0:r1] * stretch[i, c0:c1] + ground[i].astype(np.float32)
            row = np.minimum(np.maximum(row, 0, out=row), n + 1, out=row).astype(np.intp)
            row *= n + 2
            row += columns[i, c0:c1]
            planes = self._sprites[kind][level].take(row.ravel(), axis=1)
            blend = (tints[i] @ planes).reshape(4, *row.shape)
            target = canvas[:, r0:r1, c0:c1]
            target *= 1 - blend[3]
            target += blend[:3]

    def _develop(self, canvas: Floats, index: int) -> npt.NDArray[np.uint8]:
        """Exposure, vignette and sensor noise; uint8 (size, size, 3)."""
        drift = math.sin(index / 37 + self._phase[5]) + 0.5 * math.sin(index / 13 + self._phase[6])
        canvas *= (255 * (1 + 0.06 * drift)) * self._vignette
        y, x = np.random.default_rng((self.seed, index)).integers(NOISE_PAD, size=2)
        canvas += self._noise[:, y : y + self.size, x : x + self.size]
        np.clip(canvas, 0, 255, out=canvas)
        return np.stack(list(canvas.astype(np.uint8)), axis=-1)
