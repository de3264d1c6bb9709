"""Synthetic radiographs whose fracture is known exactly.

Bones are 3-D solids (`phantoms.anatomy`). A ray's way through each is known in closed form, so a picture is a
few array operations a bone: line integrals of attenuation, Beer-Lambert's law, scatter, focal blur, quantum
noise, then the logarithm and the window of a digital system. The same seed, region and fracture give the same
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from phantoms.anatomy import (
    BALL,
    BUILDERS,
    LEG_BUILDERS,
    STATIONS,
    Anatomy,
    Bone,
    Break,
    Plate,
    Solid,
    Vector,
    turn_about,
)
from phantoms.anatomy_arm import ARM_BUILDERS

# in this order: a region's number is part of every phantom's seed
_BUILDERS = {**BUILDERS, **ARM_BUILDERS, **LEG_BUILDERS}
REGIONS: tuple[str, ...] = tuple(_BUILDERS)
#: What is kept of made phantoms is named by it: the same seeds gave other pictures before.
VERSION = 3

# linear attenuation per mm at the effective energy of a 55-70 kVp beam; those of bone are in excess of muscle
_MU_MUSCLE = 0.0215
_MU_FAT = 0.0175
_MU_CORTICAL = 0.058
_MU_CANCELLOUS = 0.0115
_MU_GAS = -0.0205

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph and the truth about it.

    Attributes
    ----------
    pixels
        uint8 array of shape (height, width), bone bright.
    box
        x, y, width, height in pixels around the fracture, inside the picture; None without one.
    polygon
        Corners (x, y) in pixels of the fracture zone; empty without one.
    bone
        Name of the broken bone, or empty.
    laterality
        ``"L"`` or ``"R"``, as the marker in the picture says.
    view
        DICOM ViewPosition.
    spacing
        Millimetres a pixel.
    """

    pixels: npt.NDArray[np.uint8]
    region: str
    fractured: bool
    box: tuple[int, int, int, int] | None
    polygon: tuple[tuple[float, float], ...]
    bone: str
    laterality: str
    view: str
    seed: int
    spacing: float


@dataclass(frozen=True)
class _Frame:
    """The axis of a solid as seen in the picture: pixels = origin + along * t + aside * d."""

    origin: Vector
    along: Vector  # the whole length, pixels
    aside: Vector  # one mm, pixels
    outer: FloatArray  # (3, STATIONS): half-width mm, chord mm, centre mm
    inner: FloatArray


@dataclass(frozen=True)
class Shadow:
    """The rays' way in mm through a body and through what its cortex encloses, in a part of the picture."""

    rows: slice
    columns: slice
    outer: FloatArray
    inner: FloatArray


@dataclass(frozen=True)
class _Crack:
    """A fracture in the frame of one solid, and the motion of the far fragment (2x3, pixels)."""

    frame: _Frame
    position: float
    slope: float
    gap: float
    teeth: Vector
    motion: Vector
    carries: tuple[str, ...]

    def course(self, shadow: Shadow, *, far: bool) -> tuple[FloatArray, FloatArray]:
        """Return how far each pixel of a shadow lies beyond the crack, pixels, and where along it, mm.

        The pixels of the far fragment are taken back to where they were before it moved.
        """
        x = np.arange(shadow.columns.start, shadow.columns.stop, dtype=np.float32)[None, :]
        y = np.arange(shadow.rows.start, shadow.rows.stop, dtype=np.float32)[:, None]
        undo = cv2.invertAffineTransform(self.motion) if far else np.eye(2, 3)
        px = undo[0, 0] * x + undo[0, 1] * y + (undo[0, 2] - self.frame.origin[0])
        py = undo[1, 0] * x + undo[1, 1] * y + (undo[1, 2] - self.frame.origin[1])
        along, aside = self.frame.along, self.frame.aside
        length, unit = np.hypot(*along), np.hypot(*aside)
        s = (px * along[0] + py * along[1]) / length - self.position * length
        d = (px * aside[0] + py * aside[1]) / unit**2
        reach = float(self.frame.outer[0].max()) * 3
        at = np.linspace(-reach, reach, 1024)
        line = self.slope * at + sum(a * np.sin(rate * at + phase) for a, rate, phase in self.teeth)
        beyond = s - unit * line[np.clip((d + reach) * (1023 / (2 * reach)), 0, 1023).astype(np.int32)]
        return beyond.astype(np.float32), d.astype(np.float32)

    def share(self, shadow: Shadow, *, far: bool) -> FloatArray:
        """Return how much of each pixel of a shadow belongs to the far, or to the near fragment, 0-1."""
        beyond, _ = self.course(shadow, far=far)
        edge = self.gap * np.hypot(*self.frame.aside) / 2
        return np.asarray(np.clip((beyond if far else -beyond) - edge + 0.5, 0, 1), np.float32)

    def zone(self, bone: Shadow) -> Vector:
        """Return the convex polygon of the fracture, shape (n, 2): both fragments' ends where they part."""
        frame = self.frame
        beyond, d = self.course(bone, far=False)
        crossed = d[(np.abs(beyond) < 1.5) & (bone.outer > 0)]
        low, high = (crossed.min(), crossed.max()) if crossed.size else (-1.0, 1.0)
        scale = np.hypot(*frame.aside)
        length = np.hypot(*frame.along) / scale
        margin = self.gap / 2 + sum(self.teeth[:, 0]) + 2 / scale + 0.05 * (high - low)
        corners = [
            frame.origin
            + (self.position + (self.slope * at + step) / length) * frame.along
            + at * frame.aside
            for at in (low - 1 / scale, high + 1 / scale)
            for step in (-margin, margin)
        ]
        near = np.array(corners)
        far = near @ self.motion[:, :2].T + self.motion[:, 2]
        return np.asarray(cv2.convexHull(np.vstack([near, far]).astype(np.float32))[:, 0, :], np.float64)


class Screen:
    """The picture plane: where a solid falls, and how long the rays' way through it is."""

    def __init__(self, width: int, height: int, scale: float, centre: Vector) -> None:
        self.width, self.height, self.scale = width, height, scale
        self.shift = np.array([width, height]) / 2 - centre[:2] * scale

    def frame(self, solid: Solid) -> _Frame:
        """Project a solid; its volume is kept, whatever the view.

        A tilted elliptical cylinder casts a shadow as wide as the ellipse seen from that side, and its
        chords grow as its shadow shortens: exact for ellipsoids, close for long bones.
        """
        axis = solid.end - solid.start
        length = math.sqrt(axis @ axis)
        axis = axis / length
        seen = math.hypot(axis[0], axis[1])
        direction = axis[:2] / seen if seen > 1e-6 else np.array([0.0, 1.0])
        normal = np.array([-direction[1], direction[0]])
        across = solid.across - axis * (solid.across @ axis)
        (ux, uy, uz), (ax, ay, az) = across / math.sqrt(across @ across), axis
        cu = float(normal @ (ux, uy))
        cv = float(normal @ (uy * az - uz * ay, uz * ax - ux * az))  # across x axis: the direction of depth
        table = solid.shape.table
        w, z = table[:, 0] * solid.girth[0], table[:, 1] * solid.girth[1]
        facing = math.sqrt(float(((w * cv) ** 2 + (z * cu) ** 2).max()))
        reach = math.sqrt(seen**2 + (1 - seen**2) * (2 * facing / length) ** 2)
        offset = table[:, 2] * cu + table[:, 3] * cv
        lean = 1.0
        if solid.shape.bowed:
            slope = np.gradient(offset) * ((STATIONS - 1) / (length * reach))
            lean = np.sqrt(1 + slope**2)

        def outline(a: Vector, b: Vector) -> FloatArray:
            half = np.sqrt((a * cu) ** 2 + (b * cv) ** 2)
            chord = 2 * a * b / np.maximum(half, 1e-6) / reach
            return np.stack([half * lean, chord, offset]).astype(np.float32)

        cortex = table[:, 4] * solid.cortex
        inner = outline(np.maximum(w - cortex, 0), np.maximum(z - cortex, 0))
        ends = round(STATIONS * min(0.4, float(min(cortex[0], cortex[-1])) / length))
        inner[:2, :ends] = 0
        inner[:2, STATIONS - ends :] = 0
        middle = (solid.start + solid.end)[:2] / 2 * self.scale + self.shift
        along = direction * length * reach * self.scale
        return _Frame(middle - along / 2, along, normal * self.scale, outline(w, z), inner)

    def chords(self, solid: Solid, motion: Vector | None = None) -> Shadow | None:
        """Return the rays' way through a solid and its inside; None where it is out of the picture."""
        middle = (solid.start + solid.end)[:2] / 2 * self.scale + self.shift
        if motion is not None:
            middle = motion[:, :2] @ middle + motion[:, 2]
        axis = solid.end - solid.start
        radius = (math.sqrt(axis @ axis) / 2 + solid.shape.widest * max(solid.girth)) * self.scale
        if not (-radius < middle[0] < self.width + radius and -radius < middle[1] < self.height + radius):
            return None
        if solid.shape is BALL:
            return self._ellipsoid(solid, middle, motion)
        frame = self.frame(solid)
        widest = float((np.abs(frame.outer[2]) + frame.outer[0]).max())
        corners = frame.origin + np.outer((0, 0, 1, 1), frame.along)
        corners += np.outer((-widest, widest, -widest, widest), frame.aside)
        if motion is not None:
            corners = corners @ motion[:, :2].T + motion[:, 2]
        window = self._window(corners.min(axis=0), corners.max(axis=0))
        if window is None:
            return None
        rows, columns, x, y = window
        t_row, d_row = self._axes(frame, motion)
        t = (t_row[0] * x + t_row[2]) + t_row[1] * y
        d = (d_row[0] * x + d_row[2]) + d_row[1] * y
        index = (t * (STATIONS - 1)).astype(np.int32)
        np.clip(index, 0, STATIONS - 1, out=index)
        outside = (t < 0) | (t > 1)
        if solid.shape.bowed:
            d -= frame.outer[2].take(index)
        d *= d
        ways = []
        for half, chord, _ in (frame.outer, frame.inner):
            # chord * sqrt(1 - (d / half)^2), and 0 where the half-width is 0
            squared = chord * chord
            way = squared.take(index) - d * (squared / np.maximum(half * half, 1e-6)).take(index)
            np.maximum(way, 0, out=way)
            way[outside] = 0
            ways.append(np.sqrt(way, out=way))
        return Shadow(rows, columns, ways[0], ways[1])

    def _ellipsoid(self, solid: Solid, middle: Vector, motion: Vector | None) -> Shadow | None:
        """Project an ellipsoid ``p' M p = 1``, exactly: its chords are ``2 sqrt((1 - q' S q) / M_zz)``.

        q is the point in the picture and S the Schur complement of M_zz.
        """
        axis = solid.end - solid.start
        length = math.sqrt(axis @ axis)
        along = axis / length
        across = solid.across - along * (solid.across @ along)
        across = across / math.sqrt(across @ across)
        (ux, uy, uz), (ax, ay, az) = across, along
        deep = (uy * az - uz * ay, uz * ax - ux * az, ux * ay - uy * ax)
        basis = np.array([along, across, deep])
        if motion is not None:
            basis[:, :2] = basis[:, :2] @ motion[:, :2].T
        ways: list[FloatArray] = []
        window = None
        for cortex in (0.0, solid.cortex):
            semi = np.array([length / 2, *solid.girth]) - cortex
            if semi.min() <= 0.05:
                ways.append(np.zeros_like(ways[0]))
                continue
            form = (basis.T / (semi * self.scale) ** 2) @ basis
            outline = form[:2, :2] - np.outer(form[:2, 2], form[2, :2]) / form[2, 2]
            if window is None:
                reach = np.sqrt(np.diag(np.linalg.inv(outline)))
                window = self._window(middle - reach, middle + reach)
                if window is None:
                    return None
            rows, columns, x, y = window
            dx, dy = x - np.float32(middle[0]), y - np.float32(middle[1])
            (a, b), (_, c) = (outline / form[2, 2] * (2 / self.scale) ** 2).astype(np.float32)
            way = np.float32((2 / self.scale) ** 2 / form[2, 2]) - (a * dx * dx + (2 * b * dx + c * dy) * dy)
            np.maximum(way, 0, out=way)
            ways.append(np.sqrt(way, out=way))
        return Shadow(rows, columns, ways[0], ways[1])

    def _window(self, low: Vector, high: Vector) -> tuple[slice, slice, FloatArray, FloatArray] | None:
        """Return rows, columns, x (1, n) and y (m, 1) of the pixels within bounds; None if there are none."""
        left, top = max(math.floor(low[0]), 0), max(math.floor(low[1]), 0)
        right, bottom = min(math.ceil(high[0]) + 1, self.width), min(math.ceil(high[1]) + 1, self.height)
        if left >= right or top >= bottom:
            return None
        x = np.arange(left, right, dtype=np.float32)[None, :]
        y = np.arange(top, bottom, dtype=np.float32)[:, None]
        return slice(top, bottom), slice(left, right), x, y

    @staticmethod
    def _axes(frame: _Frame, motion: Vector | None) -> tuple[FloatArray, FloatArray]:
        """Return the rows (x, y, 1) -> t and -> d; a motion of the solid is undone first."""
        t = frame.along / (frame.along @ frame.along)
        d = frame.aside / (frame.aside @ frame.aside)
        rows = np.array([[*t, -(t @ frame.origin)], [*d, -(d @ frame.origin)], [0, 0, 1]])
        if motion is not None:
            rows = rows @ np.linalg.inv(np.vstack([motion, [0, 0, 1]]))
        return rows[0].astype(np.float32), rows[1].astype(np.float32)

    def merged(self, solids: Sequence[Solid], motion: Vector | None = None) -> Shadow | None:
        """Return the way through the union of solids, and through its inside; overlaps count once."""
        found = [shadow for shadow in (self.chords(solid, motion) for solid in solids) if shadow]
        if len(found) < 2:
            return found[0] if found else None
        top, bottom = min(f.rows.start for f in found), max(f.rows.stop for f in found)
        left, right = min(f.columns.start for f in found), max(f.columns.stop for f in found)
        outer = np.zeros((bottom - top, right - left), np.float32)
        inner = np.zeros_like(outer)
        for f in found:
            rows = slice(f.rows.start - top, f.rows.stop - top)
            columns = slice(f.columns.start - left, f.columns.stop - left)
            np.maximum(outer[rows, columns], f.outer, out=outer[rows, columns])
            np.maximum(inner[rows, columns], f.inner, out=inner[rows, columns])
        return Shadow(slice(top, bottom), slice(left, right), outer, inner)

    def plate(self, plate: Plate) -> FloatArray | None:
        """Return the way through a flat bone, thick at its rim; all of it counts as cortex."""
        points = plate.outline[:, :2] * self.scale + self.shift
        closed = np.vstack([points[-2:], points, points[:3]])
        steps = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
        p0, p1, p2, p3 = (closed[i : i + len(points) + 1, None, :] for i in range(4))
        curve = 0.5 * (
            2 * p1
            + (p2 - p0) * steps
            + (2 * p0 - 5 * p1 + 4 * p2 - p3) * steps**2
            + (3 * p1 - p0 - 3 * p2 + p3) * steps**3
        )  # Catmull-Rom
        mask = np.zeros((self.height, self.width), np.uint8)
        cv2.fillPoly(mask, [np.round(curve.reshape(-1, 2)).astype(np.int32)], 1)
        if not mask.any():
            return None
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3) / self.scale
        way = (plate.thickness + plate.rim * np.exp(-((depth / 2.2) ** 2))) * np.minimum(depth / 1.2, 1)
        return np.asarray(way, np.float32)


def _choose_break(anatomy: Anatomy, screen: Screen, rng: np.random.Generator) -> tuple[Bone, Break, float]:
    """Choose where a bone breaks: well inside the picture."""
    places = [
        (bone, site, float(position), *(frame.origin + position * frame.along))
        for bone in anatomy.bones
        for site in bone.breaks
        if np.hypot(*(frame := screen.frame(bone.solids[site.solid])).along) / screen.scale > 12
        for position in np.linspace(site.low, site.high, 5)
    ]
    for margin in (0.14, 0.09):  # wider than the collimator's shadow
        inside = [
            place
            for place in places
            if margin < place[3] / screen.width < 1 - margin
            and margin < place[4] / screen.height < 1 - margin
        ]
        if inside:
            break
    else:
        raise ValueError("no bone of this view can break inside the picture")
    sites = list(dict.fromkeys(id(site) for _, site, *_ in inside))
    chosen = sites[int(rng.integers(len(sites)))]
    here = [place for place in inside if id(place[1]) == chosen]
    bone, site, position, *_ = here[int(rng.integers(len(here)))]
    return bone, site, position


def _crack(frame: _Frame, site: Break, position: float, rng: np.random.Generator) -> _Crack:
    """Draw a fracture's course and displacement: hairline, displaced, angulated or impacted."""
    width = 2 * float(frame.outer[0, round(position * (STATIONS - 1))])
    kind = rng.choice(["hairline", "displaced", "angulated", "impacted"], p=[0.2, 0.35, 0.3, 0.15])
    slope = rng.uniform(-0.9, 0.9) if kind != "impacted" else rng.uniform(-0.3, 0.3)
    width = min(width, 26.0)  # the broad ends of bones do not part further than their shafts
    gap = rng.uniform(0.06, 0.11) * width + 0.5
    degrees, aside, shorten = 0.0, 0.0, 0.0
    sign = rng.choice([-1.0, 1.0])
    if kind == "hairline":
        degrees = rng.uniform(0, 2)
    elif kind == "displaced":
        aside, degrees = rng.uniform(0.15, 0.55) * width, rng.uniform(0, 8)
        shorten = rng.uniform(-0.1, 0.2) * width
    elif kind == "angulated":
        aside, degrees = rng.uniform(0.05, 0.25) * width, rng.uniform(9, 22)
    else:
        gap, shorten, degrees = 0.3, rng.uniform(0.05, 0.14) * width, rng.uniform(2, 9)
    teeth = np.array(
        [
            (rng.uniform(0.01, 0.035) * width, rng.uniform(2, 9) * 2 / width, rng.uniform(0, 6.3))
            for _ in range(3)
        ]
    )
    pivot = frame.origin + position * frame.along
    angle = np.radians(sign * degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    unit = frame.along / np.hypot(*frame.along) * np.hypot(*frame.aside)
    shift = sign * aside * frame.aside - shorten * unit
    motion = np.column_stack([turn, pivot - turn @ pivot + shift])
    return _Crack(frame, position, slope, gap, teeth, motion, site.carries)


def _bones(
    anatomy: Anatomy, screen: Screen, broken: str, crack: _Crack | None, texture: FloatArray
) -> FloatArray:
    """Return the line integral of what the bones attenuate beyond soft tissue."""
    total = np.zeros((screen.height, screen.width), np.float32)

    def add(shadow: Shadow | None, *, far: bool | None = None) -> None:
        if shadow is None:
            return
        here = shadow.rows, shadow.columns
        load = _MU_CORTICAL * (shadow.outer - shadow.inner) + _MU_CANCELLOUS * shadow.inner * texture[here]
        total[here] += load if crack is None or far is None else load * crack.share(shadow, far=far)

    for bone in anatomy.bones:
        if crack and bone.name == broken:
            add(screen.merged(bone.solids), far=False)
            add(screen.merged(bone.solids, crack.motion), far=True)
            continue
        add(screen.merged(bone.solids, crack.motion if crack and bone.name in crack.carries else None))
        for plate in bone.plates:
            way = screen.plate(plate)
            if way is not None:
                total += _MU_CORTICAL * 0.8 * way * texture
    return total


def _flesh(anatomy: Anatomy, screen: Screen, rng: np.random.Generator) -> FloatArray:
    """Return the line integral of soft tissue, at half the resolution: its edges are soft anyway."""
    half = Screen((screen.width + 1) // 2, (screen.height + 1) // 2, screen.scale / 2, np.zeros(2))
    half.shift = screen.shift / 2
    total = np.zeros((half.height, half.width), np.float32)
    for group in anatomy.flesh:
        body = half.merged(group)
        if body:
            total[body.rows, body.columns] += _MU_FAT * (body.outer - body.inner) + _MU_MUSCLE * body.inner
    streaks = rng.standard_normal((half.height // 8 + 1, half.width // 8 + 1), np.float32)
    streaks = cv2.resize(
        cv2.GaussianBlur(streaks, (0, 0), 1), (half.width, half.height), interpolation=cv2.INTER_CUBIC
    )
    total *= 1 + 0.08 * streaks  # planes of fat between muscles
    for solid in anatomy.air:
        gas = half.chords(solid)
        if gas:
            total[gas.rows, gas.columns] += np.maximum(
                _MU_GAS * gas.outer, -0.75 * total[gas.rows, gas.columns]
            )
    total = cv2.GaussianBlur(total, (0, 0), max(0.5, 0.5 * half.scale))
    return np.asarray(
        cv2.resize(total, (screen.width, screen.height), interpolation=cv2.INTER_LINEAR), np.float32
    )


def _noise(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    return rng.standard_normal((height, width), np.float32)


def _trabeculae(rng: np.random.Generator, screen: Screen) -> FloatArray:
    """Return the texture of cancellous bone: what its trabeculae leave of their contrast in a pixel.

    They stand some 0.8 mm apart. A ray meets about thirty of them and a pixel takes in its own area of them,
    so the load deviates by a share of ``0.6 / sqrt(30 (side / 0.8)^2)``, the less the larger a pixel is.
    """
    grain = _noise(rng, screen.height, screen.width)
    spacing = 0.8 * screen.scale  # pixels
    if spacing > 2:
        grain = cv2.GaussianBlur(grain, (0, 0), spacing / 4) * np.float32(spacing * 0.9)
    return np.asarray(1 + min(0.11 * spacing, 0.11) * grain, np.float32)


def _collimation(rng: np.random.Generator, width: int, height: int) -> tuple[FloatArray, float]:
    """Return the transmission of the collimator, 0-1, and the grey that its shadow is shown in."""
    kind = rng.random()
    grey = 0.0 if kind < 0.85 else 0.96
    open_ = np.ones((height, width), np.float32)
    if kind < 0.35:
        return open_, grey
    margins = rng.uniform(0.0, 0.07, 4) * (rng.random(4) < 0.7)
    if grey:  # an unexposed strip of the plate, shown white by some systems
        margins = rng.uniform(0.03, 0.08) * np.eye(4)[int(rng.integers(4))]
    left, top, right, bottom = margins * (width, height, width, height)
    middle = ((width + left - right) / 2, (height + top - bottom) / 2)
    turned = float(rng.normal(0, 2.0)) if rng.random() < 0.5 and not grey else 0.0
    box = cv2.boxPoints((middle, (width - left - right, height - top - bottom), turned))
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(box).astype(np.int32)], 255)
    return cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32) / 255, grey


def _marker(total: FloatArray, text: str, rng: np.random.Generator) -> None:
    """Add a lead letter to the line integrals, where little else is in its way."""
    height, width = total.shape
    size = max(0.35, min(height, width) / 480)
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    inset = 0.11
    spots = [
        (int((width - w) * fx), int((height - h) * fy) + h)
        for fx in (inset, 1 - inset)
        for fy in (inset, 0.3, 0.7, 1 - inset)
    ]
    load = [float(total[max(0, y - h) : y + 1, x : x + w].mean()) + rng.uniform(0, 0.05) for x, y in spots]
    letter = np.zeros((height, width), np.uint8)
    thick = max(1, round(size * 2))
    cv2.putText(
        letter, text, spots[int(np.argmin(load))], cv2.FONT_HERSHEY_SIMPLEX, size, 255, thick, cv2.LINE_AA
    )
    total += letter.astype(np.float32) * np.float32(2.6 / 255)


def _expose(
    total: FloatArray, open_: FloatArray, grey: float, rng: np.random.Generator, *, trunk: bool
) -> npt.NDArray[np.uint8]:
    """Turn line integrals into the picture: Beer-Lambert, scatter, blur, noise, logarithm, window."""
    height, width = total.shape
    primary = cv2.exp(-total)
    small = cv2.resize(
        primary * open_, (max(1, width // 8), max(1, height // 8)), interpolation=cv2.INTER_AREA
    )
    haze = cv2.resize(cv2.GaussianBlur(small, (0, 0), max(1.0, width / 80)), (width, height))
    # scatter, of the order of the primary's tenth to third: limbs are exposed without a grid
    signal = primary + rng.uniform(0.1, 0.35) * haze
    signal = cv2.GaussianBlur(signal, (0, 0), rng.uniform(0.45, 0.8) * max(1.0, min(height, width) / 400))
    inside = (total[::3, ::3] > 0.12) & (open_[::3, ::3] > 0.5)  # of the body, every third pixel
    typical = float(np.exp(-np.median(total[::3, ::3][inside]))) if inside.any() else 0.5
    quanta = 10 ** rng.uniform(3.0, 4.0) / typical
    # a Poisson count of more than a few dozen is normal with variance equal to its mean
    signal += np.sqrt(np.maximum(signal, 0) / quanta) * _noise(rng, height, width)
    density = -cv2.log(np.maximum(signal, 2e-4 * typical))
    flat = cv2.resize(density, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
    flat = cv2.resize(cv2.GaussianBlur(flat, (0, 0), max(1.0, small.shape[1] / 10)), (width, height))
    # as digital systems do: thick parts are brought nearer to thin ones, the more the thicker the part
    density = density - (rng.uniform(0.0, 0.35) + 0.2 * (typical < 0.1)) * flat
    sample = density[::3, ::3][inside]
    low, high = np.percentile(sample if sample.size > 64 else density, (1.0, 99.6))
    span = max(float(high - low), 0.1)
    foot = rng.uniform(0.02, 0.16)
    shown = foot + (density - low) / span * (rng.uniform(0.66, 0.92) - foot)
    # the curve of a digital system brings the middle of the part to its own grey: dark where a limb is soft
    # tissue with bone in it, brighter where the trunk is in view
    shown = np.clip(shown, rng.uniform(0.06, 0.14), 1)
    middle = float(np.median(shown[::3, ::3][inside])) if inside.any() else 0.5
    wanted = rng.uniform(0.36, 0.54) if trunk else rng.uniform(0.18, 0.32)
    shown = cv2.pow(shown, float(np.clip(math.log(wanted) / math.log(min(middle, 0.95)), 0.8, 2.6)))
    shown = shown * open_ + grey * (1 - open_)
    # what reading a plate out adds: noise of its own, and lines of a slightly different gain
    lines = _noise(rng, 1, width) * np.float32(rng.uniform(0.5, 1.5))
    shown += (_noise(rng, height, width) * np.float32(rng.uniform(0.8, 1.5)) + lines) / 255
    return np.asarray(np.round(np.clip(shown, 0, 1) * 255), np.uint8)


def _default_size(anatomy: Anatomy, longest: int) -> tuple[int, int]:
    tall, wide = anatomy.field
    if tall >= wide:
        return round(longest * max(wide / tall, 0.7)), longest
    return longest, round(longest * max(tall / wide, 0.7))


def make_phantom(
    seed: int,
    region: str,
    *,
    fracture: bool | None = None,
    size: tuple[int, int] | None = None,
    longest: int = 448,
) -> Phantom:
    """Make one synthetic radiograph.

    Parameters
    ----------
    seed
        The same seed, region, fracture and size give the same pixels; with and without a fracture the
        anatomy, the pose and the exposure are the same.
    region
        One of `REGIONS`.
    fracture
        Whether a bone is broken; None leaves it to the seed.
    size
        Width and height in pixels, at least 64 each; None takes what the view asks for.
    longest
        The long side in pixels where `size` is None.

    Raises
    ------
    ValueError
        The region is unknown or the size too small.
    """
    if region not in _BUILDERS:
        raise ValueError(f"region must be one of {', '.join(REGIONS)}, not {region!r}")
    if min(size or (longest,)) < 64:
        raise ValueError(f"a phantom is at least 64 pixels wide and high, not {size or longest}")
    key = [seed, REGIONS.index(region)]
    rng = np.random.default_rng([*key, 0])
    anatomy = _BUILDERS[region](rng)
    build, mirror = rng.uniform(0.88, 1.12), rng.random() < 0.5
    tilt = rng.normal(0, 7 if region in {"hand", "elbow", "leg"} else 3)
    if region == "elbow":
        tilt = rng.uniform(-180, 180)
    pose = turn_about(np.array([0.0, 0.0, 1.0]), tilt) @ np.diag([-1.0 if mirror else 1.0, 1, 1])
    anatomy = anatomy.moved(pose * build, np.zeros(3))
    width, height = size or _default_size(anatomy, longest)
    scale = min(height / anatomy.field[0], width / anatomy.field[1])
    screen = Screen(width, height, scale, anatomy.centre + rng.normal(0, 0.02, 3) * anatomy.field[0])
    fractured = bool(rng.random() < 0.5) if fracture is None else fracture
    crack, broken, polygon = None, "", np.zeros((0, 2))
    if fractured:
        fate = np.random.default_rng([*key, 1])
        bone, site, position = _choose_break(anatomy, screen, fate)
        crack, broken = _crack(screen.frame(bone.solids[site.solid]), site, position, fate), bone.name
        shadow = screen.merged(bone.solids)
        if shadow is not None:
            polygon = np.clip(crack.zone(shadow), 0, (width - 1, height - 1))
    total = _flesh(anatomy, screen, rng) + _bones(anatomy, screen, broken, crack, _trabeculae(rng, screen))
    side = {"L": "R", "R": "L"}[anatomy.side] if mirror else anatomy.side
    open_, grey = _collimation(rng, width, height)
    _marker(total, side, rng)
    pixels = _expose(total, open_, grey, rng, trunk=bool(anatomy.air))
    font = max(0.28, min(width, height) / 1400)
    cv2.putText(pixels, "SYNTHETIC", (4, height - 5), cv2.FONT_HERSHEY_SIMPLEX, font, 150, 1, cv2.LINE_AA)
    box = None
    if len(polygon):
        left, top = np.floor(polygon.min(axis=0)).astype(int)
        right, bottom = np.ceil(polygon.max(axis=0)).astype(int)
        box = (int(left), int(top), int(max(right - left, 1)), int(max(bottom - top, 1)))
    corners = tuple((round(float(x), 1), round(float(y), 1)) for x, y in polygon)
    return Phantom(pixels, region, fractured, box, corners, broken, side, anatomy.view, seed, 1 / scale)
