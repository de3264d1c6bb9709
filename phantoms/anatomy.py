"""The bones and flesh of the phantoms, as 3-D solids in millimetres: hand, elbow, shoulder, hip and leg.

Axes: x to the right of an upright frontal picture, y down, z towards the viewer (anterior in a frontal view).
Sizes are those of an average adult, rounded; each phantom scales them by a random build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Field = tuple[float, float]

#: Stations along the axis of every shape.
STATIONS = 256

X, Y, Z = np.eye(3)


@dataclass(frozen=True)
class Shape:
    """Elliptical cross-sections along an axis of unit length.

    `table` is float64 of shape (STATIONS, 5), in mm: half-width, half-depth, offset of the centre across,
    offset of the centre in depth, thickness of the cortex.
    """

    table: npt.NDArray[np.float64]

    @cached_property
    def bowed(self) -> bool:
        """Whether the centre line is not straight."""
        return bool(np.any(self.table[:, 2:4]))

    @cached_property
    def widest(self) -> float:
        """Largest distance of the surface from the axis, mm."""
        return float((np.abs(self.table[:, :2]) + np.abs(self.table[:, 2:4])).max())


def _smoothed(columns: Vector, share: int) -> Vector:
    """Return columns smoothed over 1/`share` of their length to either side."""
    half = STATIONS // share
    kernel = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(columns, ((half, half), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel / kernel.sum(), "valid") for column in padded.T], axis=1)


def shape(rows: Sequence[Sequence[float]], caps: tuple[float, float] = (0.03, 0.03)) -> Shape:
    """Make a shape from a few stations, joined smoothly, its ends rounded.

    Parameters
    ----------
    rows
        Stations of (position 0-1, half-width, half-depth, offset across, offset in depth, cortex) in mm.
    caps
        Share of the length over which each end is rounded off; 0 leaves it cut flat.
    """
    stations = np.asarray(rows, np.float64)
    position = np.linspace(0, 1, STATIONS)
    table = np.stack([np.interp(position, stations[:, 0], stations[:, i]) for i in range(1, 6)], axis=1)
    smooth = np.column_stack([_smoothed(table[:, :2], 40), _smoothed(table[:, 2:4], 9), table[:, 4]])
    for distance, cap in ((position, caps[0]), (1 - position, caps[1])):
        if cap:
            inside = np.clip(1 - distance / cap, 0, 1)
            smooth[:, :2] *= np.sqrt(1 - inside**2)[:, None]
    return Shape(smooth)


def _ball() -> Shape:
    position = np.linspace(-1, 1, STATIONS)
    round_ = np.sqrt(np.clip(1 - position**2, 0, 1))
    zero = np.zeros(STATIONS)
    return Shape(np.stack([round_, round_, zero, zero, np.ones(STATIONS)], axis=1))


BALL = _ball()


@dataclass(frozen=True)
class Solid:
    """A shape placed in space.

    Attributes
    ----------
    start, end
        Ends of the axis, mm.
    across
        Direction of the half-width; depth lies perpendicular to it and to the axis.
    girth
        Factors on half-width and half-depth.
    cortex
        Factor on the cortex; 0 makes the solid homogeneous.
    """

    shape: Shape
    start: Vector
    end: Vector
    across: Vector
    girth: tuple[float, float] = (1.0, 1.0)
    cortex: float = 1.0

    def moved(self, turn: Vector, shift: Vector) -> Solid:
        """Return the solid turned by a 3x3 matrix, then shifted."""
        return replace(
            self,
            start=turn @ self.start + shift,
            end=turn @ self.end + shift,
            across=turn @ self.across,
        )


@dataclass(frozen=True)
class Plate:
    """A flat bone: its outline in mm, shape (n, 3), its thickness and the extra thickness of its rim."""

    outline: Vector
    thickness: float
    rim: float

    def moved(self, turn: Vector, shift: Vector) -> Plate:
        """Return the plate turned by a 3x3 matrix, then shifted."""
        return replace(self, outline=self.outline @ turn.T + shift)


@dataclass(frozen=True)
class Break:
    """Where a bone can break: between two positions on the axis of one of its solids."""

    solid: int
    low: float
    high: float
    carries: tuple[str, ...] = ()  # names of the bones that move with the far fragment


@dataclass(frozen=True)
class Bone:
    """Solids and plates that form one bone, and where it can break."""

    name: str
    solids: tuple[Solid, ...]
    plates: tuple[Plate, ...] = ()
    breaks: tuple[Break, ...] = ()

    def moved(self, turn: Vector, shift: Vector) -> Bone:
        """Return the bone turned by a 3x3 matrix, then shifted."""
        return replace(
            self,
            solids=tuple(s.moved(turn, shift) for s in self.solids),
            plates=tuple(p.moved(turn, shift) for p in self.plates),
        )


@dataclass(frozen=True)
class Anatomy:
    """One posed body part and how it is looked at.

    Attributes
    ----------
    flesh
        Groups of solids; within a group they merge, groups add up. Their cortex is the layer of fat.
    air
        Solids of gas or aerated lung inside the flesh.
    centre
        Point in the middle of the picture, mm.
    field
        Height and width of the picture that the part asks for, mm.
    view
        DICOM ViewPosition: ``AP``, ``PA``, ``LL`` or ``OBL``.
    side
        Laterality as built; the other side is its mirror image.
    """

    bones: tuple[Bone, ...]
    flesh: tuple[tuple[Solid, ...], ...]
    air: tuple[Solid, ...]
    centre: Vector
    field: Field
    view: str
    side: str

    def moved(self, turn: Vector, shift: Vector) -> Anatomy:
        """Return the whole part turned by a 3x3 matrix, then shifted."""
        return replace(
            self,
            bones=tuple(b.moved(turn, shift) for b in self.bones),
            flesh=tuple(tuple(s.moved(turn, shift) for s in group) for group in self.flesh),
            air=tuple(s.moved(turn, shift) for s in self.air),
            centre=turn @ self.centre + shift,
        )


def turn_about(axis: Vector, degrees: float) -> Vector:
    """Return the 3x3 rotation matrix about a unit axis (Rodrigues' formula)."""
    angle = np.radians(degrees)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _at(*xyz: float) -> Vector:
    return np.array([*xyz, 0.0][:3], np.float64)


def _ellipsoid(
    centre: Vector, semi: tuple[float, float, float], tilt: float = 0.0, cortex: float = 1.0
) -> Solid:
    """Place an ellipsoid of half-sizes (x, y, z) mm, turned by `tilt` degrees in the picture."""
    turn = turn_about(Z, tilt)
    reach = turn @ Y * semi[1]
    return Solid(BALL, centre - reach, centre + reach, turn @ X, (semi[0], semi[2]), cortex)


def _limb(shape_: Shape, start: Vector, end: Vector, girth: float = 1.0, cortex: float = 1.0) -> Solid:
    """Place a shape along an axis that lies mostly in the picture, its width in the picture."""
    axis = (end - start) / np.linalg.norm(end - start)
    across = np.array([axis[1], -axis[0], 0.0])
    return Solid(shape_, start, end, across / np.linalg.norm(across), (girth, girth), cortex)


def cassette(rng: np.random.Generator, *, large: bool) -> Field:
    """Draw the height and width of a picture: a cassette of 35 x 43 or 24 x 30 cm, collimated a little.

    Departments with one size of cassette expose small parts on the large one, too; the limb then fills a
    third of the picture and its neighbouring joint is in it.
    """
    tall, wide = (430.0, 350.0) if large else (300.0, 240.0)
    return tall * rng.uniform(0.9, 1.0), wide * rng.uniform(0.85, 1.0)


def _hinge(bones: Iterable[Bone], pivot: Vector, turn: Vector) -> list[Bone]:
    return [bone.moved(turn, pivot - turn @ pivot) for bone in bones]


def _mirrored(bone: Bone, about_x: float) -> Bone:
    flip = np.diag([-1.0, 1.0, 1.0])
    name = bone.name.removesuffix("_r") + "_l"
    return replace(bone.moved(flip, np.array([2 * about_x, 0, 0])), name=name)


# (position, half-width, half-depth, offset across, offset in depth, cortex), all but the first in mm
_METACARPAL = shape(
    [
        (0, 6.3, 6, 0, 0, 0.8),
        (0.1, 6.8, 6.6, 0, 0, 0.8),
        (0.27, 4.6, 4.6, 0, 0.8, 1.7),
        (0.5, 4.0, 4.2, 0, 1.2, 2.1),
        (0.72, 4.5, 4.5, 0, 0.8, 1.6),
        (0.9, 6.6, 6.8, 0, -0.5, 0.7),
        (1, 6.2, 6.4, 0, -0.8, 0.6),
    ],
    (0.05, 0.09),
)
_PHALANX = shape(
    [
        (0, 6.8, 5.4, 0, 0, 0.7),
        (0.1, 7.0, 5.6, 0, 0, 0.8),
        (0.3, 4.9, 4.4, 0, 0.5, 1.5),
        (0.55, 4.2, 3.7, 0, 0.7, 1.7),
        (0.78, 4.5, 3.8, 0, 0.2, 1.2),
        (0.92, 5.7, 4.5, 0, -0.4, 0.6),
        (1, 5.2, 4.2, 0, -0.6, 0.6),
    ],
    (0.05, 0.08),
)
_TUFT = shape(
    [
        (0, 5.8, 4.2, 0, 0, 0.7),
        (0.14, 5.6, 4, 0, 0, 0.8),
        (0.4, 2.7, 2.4, 0, 0, 1.1),
        (0.7, 2.5, 2.1, 0, 0, 1.0),
        (0.88, 3.9, 2.2, 0, 0, 0.7),
        (1, 3.4, 2, 0, 0, 0.6),
    ],
    (0.06, 0.12),
)
_RADIUS = shape(
    [
        (0, 10.8, 10.8, 0, 0, 0.9),
        (0.035, 10.8, 10.8, 0, 0, 1.0),
        (0.075, 7.2, 7.2, 0, 0, 1.6),
        (0.15, 8.6, 8.4, 1, 0, 2.2),
        (0.3, 7.2, 6.6, 3, 0, 3.0),
        (0.55, 7.4, 6.4, 4, 0, 3.0),
        (0.8, 8.6, 7.4, 2, 0, 2.3),
        (0.92, 14.0, 10, 0, 0, 1.1),
        (0.97, 16.2, 11.4, 0, 0, 0.9),
        (1, 15.6, 11, 0, 0, 0.9),
    ],
    (0.012, 0.012),
)
_ULNA = shape(
    [
        (0, 9.0, 9.5, 0, 0, 0.7),
        (0.1, 10.5, 11, 0, 0, 1.1),
        (0.2, 8.6, 9.4, 0, 0, 2.6),
        (0.5, 6.8, 7.2, -1, 0, 2.9),
        (0.8, 5.6, 5.8, 0, 0, 2.3),
        (0.93, 6.4, 6.4, 0, 0, 1.2),
        (0.97, 8.6, 8.6, 0, 0, 0.9),
        (1, 8.2, 8.2, 0, 0, 0.9),
    ],
    (0.03, 0.03),
)
_HUMERUS_DISTAL = shape(
    [
        (0, 11.3, 11.3, 0, 0, 4.6),
        (0.55, 10.8, 11, 0, 0, 4.2),
        (0.72, 13.5, 9.8, 0, 0, 3.0),
        (0.86, 22.5, 8.6, 0, 0, 1.5),
        (0.94, 29, 8.6, 0, 1, 1.1),
        (1, 25, 8.6, 0, 2, 1.0),
    ],
    (0, 0.05),
)
_HUMERUS_PROXIMAL = shape(
    [
        (0, 20, 19, 0, 0, 1.0),
        (0.06, 23.5, 22, 0, 0, 1.1),
        (0.12, 20, 19, 0, 0, 1.6),
        (0.2, 14, 14, 0, 0, 3.0),
        (0.5, 11.5, 11.5, 0, 0, 4.4),
        (1, 11.3, 11.3, 0, 0, 4.4),
    ],
    (0.06, 0),
)
_CLAVICLE = shape(
    [
        (0, 8.5, 5, 0, 0, 1.1),
        (0.2, 7.5, 5, -5, 0, 1.7),
        (0.45, 5.8, 5.6, -1, 0, 2.4),
        (0.75, 7, 6.6, 7, 0, 2.0),
        (0.93, 10.5, 10, 3, 0, 1.2),
        (1, 11.5, 11, 0, 0, 1.0),
    ],
    (0.05, 0.04),
)
_FEMUR_PROXIMAL = shape(
    [
        (0, 12, 13, 0, 0, 1.0),
        (0.07, 18, 18, 0, 0, 1.2),
        (0.15, 24, 20, 0, 0, 1.5),
        (0.25, 20.5, 19, 0, 0, 3.2),
        (0.38, 16, 16, 0, 0, 5.6),
        (1, 14.5, 14.5, 0, 0, 6.6),
    ],
    (0.06, 0),
)
_FEMUR_NECK = shape(
    [
        (0, 24, 17, 0, 0, 1.2),
        (0.35, 18.5, 15, 0, 0, 1.8),
        (0.62, 16, 14, 0, 0, 1.8),
        (0.85, 17.5, 16, 0, 0, 1.2),
        (1, 17, 15, 0, 0, 1.0),
    ],
    (0.15, 0.1),
)
_FEMUR_DISTAL = shape(
    [
        (0, 14.2, 14.4, 0, 0, 6.6),
        (0.5, 14.8, 14.6, 0, 0, 5.2),
        (0.7, 18.5, 16.5, 0, 1, 3.4),
        (0.84, 29, 20, 0, 0, 1.4),
        (0.93, 39, 23, 0, 1, 1.1),
        (1, 36, 20, 0, 2, 1.0),
    ],
    (0, 0.07),
)
_TIBIA = shape(
    [
        (0, 36, 24, 0, -6, 1.0),
        (0.03, 38, 25, 0, -6, 1.0),
        (0.07, 33, 22.5, 0, -4, 1.2),
        (0.12, 24, 20, 0, -1, 1.8),
        (0.18, 18.5, 17.5, 0, 1, 3.2),
        (0.3, 14.2, 15, 0, 2, 5.4),
        (0.55, 12, 12.5, 0, 0, 5.8),
        (0.78, 12, 11.5, 0, 0, 4.2),
        (0.9, 17, 15, 0, 0, 2.0),
        (0.965, 22, 18.5, 0, 0, 1.2),
        (1, 21, 18, 0, 0, 0.8),
    ],
    (0.015, 0.015),
)
_FIBULA = shape(
    [
        (0, 10, 10.5, 0, 0, 0.6),
        (0.045, 10.5, 11, 0, 0, 0.6),
        (0.11, 6, 6.4, 0, 0, 1.4),
        (0.4, 6.4, 6.6, 1, -6, 2.5),
        (0.75, 6.2, 6.4, 0, -5, 2.4),
        (0.9, 9.5, 8, 0, -1, 1.2),
        (0.96, 10.5, 9, 0, 0, 0.8),
        (1, 7, 7, 0, 0, 0.8),
    ],
    (0.03, 0.035),
)
_RIB = shape(
    [
        (0, 5.4, 3.6, 0, 0, 1.2),
        (0.25, 5.8, 3.8, 9, 0, 1.3),
        (0.5, 6, 3.8, 13, 0, 1.3),
        (0.75, 6, 4.4, 11, 0, 1.4),
        (0.92, 5.4, 6.5, 4, 0, 1.5),
        (1, 4.6, 8, 0, 0, 1.5),
    ],
    (0.02, 0.02),
)
_ROD = shape([(0, 1, 1, 0, 0, 1), (1, 1, 1, 0, 0, 1)], (0.12, 0.12))
_BLOCK = shape([(0, 1, 1, 0, 0, 1), (0.5, 0.9, 0.95, 0, 0, 1), (1, 1, 1, 0, 0, 1)], (0.1, 0.1))

# flesh: the last column is the layer of fat
_FINGER = shape([(0, 9.5, 8.5, 0, 0, 1.5), (0.6, 8.5, 7.8, 0, 0, 1.5), (1, 7.2, 6.5, 0, 0, 1.5)], (0.03, 0.1))
_PALM = shape(
    [(0, 26, 17, 0, 0, 2), (0.35, 36, 16, 2, 0, 2), (0.7, 42, 14, 0, 0, 2), (1, 40, 11, 0, 0, 2)], (0.1, 0.12)
)
FOREARM = shape(
    [
        (0, 42, 42, 0, 0, 5),
        (0.25, 43, 40, 0, 0, 5),
        (0.6, 34, 31, 0, 0, 4),
        (0.9, 27, 20, 0, 0, 2),
        (1, 27, 18, 0, 0, 2),
    ],
    (0.06, 0.05),
)
UPPER_ARM = shape(
    [(0, 46, 46, 0, 0, 7), (0.6, 44, 45, 0, 0, 6), (0.88, 42, 37, 0, 0, 5), (1, 41, 38, 0, 0, 4)], (0, 0.12)
)
_SHOULDER_ARM = shape(
    [(0, 46, 40, 0, 0, 6), (0.15, 52, 46, 0, 0, 7), (0.4, 48, 46, 0, 0, 7), (1, 43, 45, 0, 0, 6)], (0.22, 0)
)
_THIGH = shape(
    [(0, 80, 82, 0, 0, 9), (0.6, 66, 70, 0, 0, 8), (0.9, 57, 62, 0, 0, 6), (1, 55, 60, 0, 0, 5)], (0, 0.1)
)
_CALF = shape(
    [
        (0, 55, 58, 0, 0, 5),
        (0.12, 54, 56, 0, -6, 5),
        (0.32, 58, 60, 0, -14, 5),
        (0.6, 46, 48, 0, -10, 4),
        (0.85, 33, 37, 0, -6, 3),
        (1, 37, 42, 0, -6, 3),
    ],
    (0.1, 0.05),
)


def upper_arm_bones() -> list[Bone]:
    """Distal humerus of a right arm from the front; the joint's centre is the origin."""
    return [
        Bone(
            "humerus",
            (
                _limb(_HUMERUS_DISTAL, _at(0, -230), _at(0, 9)),
                _ellipsoid(_at(-13, 4, 4), (10.5, 11, 11)),
                _ellipsoid(_at(9, 4, 2), (15, 10.5, 11.5)),
                _ellipsoid(_at(27, -11, -2), (7.5, 10, 6), -15),
                _ellipsoid(_at(-23, -8, 0), (6, 10, 6), 12),
            ),
            breaks=(Break(0, 0.86, 0.93, ("radius", "ulna")), Break(0, 0.5, 0.75, ("radius", "ulna"))),
        )
    ]


def forearm_bones(wrist: tuple[str, ...] = ()) -> list[Bone]:
    """Radius and ulna of a straight right arm from the front; the elbow joint's centre is the origin."""
    return [
        Bone(
            "radius",
            (
                _limb(_RADIUS, _at(-13, 18, 3), _at(-14, 256, 3)),
                _ellipsoid(_at(-24, 255, 3), (5.5, 9, 6), 12),  # its styloid process
            ),
            breaks=(Break(0, 0.06, 0.1, wrist), Break(0, 0.88, 0.95, wrist), Break(0, 0.4, 0.8, wrist)),
        ),
        Bone(
            "ulna",
            (
                _limb(_ULNA, _at(9, -17, -18), _at(14, 252, 0)),
                _ellipsoid(_at(8, -12, -13), (9.5, 7, 8)),
                _ellipsoid(_at(8, 22, -4), (9, 6, 12)),
                _ellipsoid(_at(20, 253, 0), (2.5, 6, 2.5)),
            ),
            breaks=(Break(0, 0.07, 0.11, wrist), Break(0, 0.35, 0.8, wrist)),
        ),
    ]


def elbow(rng: np.random.Generator) -> Anatomy:
    """Build a right elbow: frontal, nearly straight, or lateral, bent by about 90 degrees."""
    lateral = rng.random() < 0.55
    bend = rng.uniform(65, 105) if lateral else rng.uniform(0, 14)
    carry = turn_about(Z, -rng.uniform(4, 12))
    flex = turn_about(X, bend)
    pivot = _at(0, 5, 2)
    upper = _limb(UPPER_ARM, _at(0, -230), _at(0, 22), rng.uniform(0.8, 1.15))
    lower = _limb(FOREARM, _at(0, -22), _at(0, 262), upper.girth[0])
    forearm = _hinge(forearm_bones(), pivot, flex @ carry)
    turn = flex @ carry
    joint = _ellipsoid(_at(0, 0), (43 * upper.girth[0], 55, 40 * upper.girth[0]), 0, 4)
    flesh = (upper, joint, lower.moved(turn, pivot - turn @ pivot))
    part = Anatomy(
        (*upper_arm_bones(), *forearm),
        (flesh,),
        (),
        _at(0, rng.uniform(0, 25), 30 if lateral else 0),
        cassette(rng, large=False),
        "LL" if lateral else "AP",
        "R",
    )
    view = turn_about(Y, 90 + rng.normal(0, 4)) if lateral else turn_about(Y, rng.normal(0, 9))
    return part.moved(view, np.zeros(3))


# ray: base of the metacarpal (x, y), angle from the hand's axis, lengths of metacarpal and phalanges, girth
_RAYS = (
    ("1", (21, -27, 8), 40, (44, 31, 22), 1.08),
    ("2", (11.5, -35, 0), 9, (66, 40, 23, 17), 1.0),
    ("3", (2, -36, 0), 1, (63, 44, 27, 18), 1.02),
    ("4", (-7, -35, 0), -7, (56, 41, 26, 18), 0.92),
    ("5", (-14.5, -32, 0), -15, (52, 33, 18, 16), 0.88),
)
_CARPALS = (
    ("scaphoid", (11, -9, 0), (6.8, 12, 6), 30),
    ("lunate", (-1, -7.5, 0), (7.6, 8, 8), 0),
    ("triquetrum", (-13, -11, 0), (6.2, 7.5, 6), -30),
    ("pisiform", (-15, -11, 8), (4.6, 5.6, 4.6), 0),
    ("trapezium", (18.5, -21, 3), (7, 7.2, 7), 30),
    ("trapezoid", (10.5, -25, 0), (5.2, 6.6, 6.6), 10),
    ("capitate", (1.2, -23, 0), (6.6, 12, 7.5), 0),
    ("hamate", (-9, -24, 0), (7, 9.5, 7.5), 14),
)


#: How the forearm, built from the elbow down, comes to lie under the hand.
FOREARM_TURN = np.diag([-1.0, -1.0, 1.0])
FOREARM_SHIFT = _at(-6.5, 258)


def hand_and_forearm(
    rng: np.random.Generator,
) -> tuple[tuple[Bone, ...], tuple[Bone, ...], tuple[Solid, ...]]:
    """Build a left hand, its back to the viewer, fingers up: bones of forearm and of hand, and the flesh.

    The wrist is at the origin; the elbow's centre lies at `FOREARM_SHIFT`, turned over by `FOREARM_TURN`.
    """
    bones = [Bone(name, (_ellipsoid(_at(*c), s, tilt, 0.6),)) for name, c, s, tilt in _CARPALS]
    splay = rng.uniform(0.7, 1.35)
    bend = rng.uniform(0, 16)
    fingers: list[Solid] = []
    for ray, base, angle, lengths, girth in _RAYS:
        at = _at(*base)
        rest = tuple(f"{kind}{ray}" for kind in ("pp", "mp", "dp") if len(lengths) == 4 or kind != "mp")
        for i, length in enumerate(lengths):
            lean = angle * (0.75 if i == 0 else splay) + (rng.normal(0, 2.5) if i else 0)
            if ray == "1":
                lean = angle - 6 * i
            turn = turn_about(Z, lean) @ turn_about(
                X, bend * i * rng.uniform(0.6, 1.4) + (0 if ray != "1" else 14)
            )
            tip = at + turn @ -Y * length
            last = i == len(lengths) - 1
            kind, form = (
                ("mc", _METACARPAL) if i == 0 else ("dp", _TUFT) if last else (("pp", "mp")[i - 1], _PHALANX)
            )
            size = girth * (1, 1, 0.87, 0.8)[i]
            across = turn @ X if ray != "1" else turn @ turn_about(Y, 50) @ X
            breaks = () if last else (Break(0, 0.3, 0.88, rest[i:]),)
            bones.append(Bone(f"{kind}{ray}", (Solid(form, at, tip, across, (size, size)),), breaks=breaks))
            if i or ray == "1":
                reach = (tip - at) / length
                fingers.append(
                    Solid(_FINGER, at - reach * 8, tip + reach * (5 if last else 4), turn @ X, (girth, girth))
                )
            at = tip + turn @ -Y * 1.6
    # the forearm is built from the elbow down: turned over, its wrist under the hand
    wrist = tuple(bone.name for bone in bones)
    forearm = tuple(bone.moved(FOREARM_TURN, FOREARM_SHIFT) for bone in forearm_bones(wrist))
    palm = _limb(_PALM, _at(0, 8), _at(1, -100))
    arm = _limb(FOREARM, _at(0, 285), _at(0, -8), rng.uniform(0.8, 1.1))
    return forearm, tuple(bones), (arm, palm, *fingers)


def hand(rng: np.random.Generator) -> Anatomy:
    """Build a left hand, its back to the viewer: whole hand, wrist, or hand with forearm."""
    forearm, bones, flesh = hand_and_forearm(rng)
    frame = rng.random()
    if frame < 0.45:
        centre, field = _at(4, -72), cassette(rng, large=False)
    elif frame < 0.55:
        centre, field = _at(0, -8), (rng.uniform(150, 190), rng.uniform(125, 160))
    else:
        centre, field = _at(2, rng.uniform(10, 40)), cassette(rng, large=True)
    pose = rng.random()
    view, degrees = ("PA", rng.normal(0, 6)) if pose < 0.7 else ("OBL", rng.uniform(25, 45))
    part = Anatomy((*forearm, *bones), (flesh,), (), centre, field, view, "L")
    part = part.moved(turn_about(Y, degrees), np.zeros(3))
    upside_down = rng.random() < 0.6
    return part.moved(turn_about(Z, 180.0 * upside_down), np.zeros(3))


def _foot_bones() -> tuple[list[Bone], tuple[Solid, ...]]:
    """Foot of a right leg, toes towards the viewer; the ankle joint's centre is the origin."""
    bones = [
        Bone("talus", (_ellipsoid(_at(2, 12, 4), (17, 12, 24)), _ellipsoid(_at(4, 18, 26), (13, 10, 11)))),
        Bone(
            "calcaneus",
            (_ellipsoid(_at(-2, 36, -18), (15, 17, 36)), _ellipsoid(_at(-4, 32, 10), (13, 13, 18))),
        ),
        Bone("navicular", (_ellipsoid(_at(8, 25, 42), (15, 12, 7)),)),
        Bone("cuboid", (_ellipsoid(_at(-14, 40, 42), (11, 11, 16)),)),
        Bone(
            "cuneiforms", tuple(_ellipsoid(_at(18 - 12 * i, 28 + 3 * i, 58), (7, 11, 11)) for i in range(3))
        ),
    ]
    for i in range(5):
        x, size = 20 - 11 * i, (1.5, 1.1, 1.0, 1.0, 1.1)[i]
        at = _at(x, 33 + 4 * i, 68 - 4 * i)
        for kind, length in (
            ("mt", 66 - (6, 0, 3, 5, 6)[i]),
            ("tp", 28 - 3 * i * (i > 0)),
            ("td", 20 - 2 * i),
        ):
            tip = at + np.array(
                [-1.5 * i * 0.3, {"mt": 22 - 2 * i, "tp": 3, "td": 4}[kind], length], np.float64
            )
            form = {"mt": _METACARPAL, "tp": _PHALANX, "td": _TUFT}[kind]
            scale = size * (1 if kind == "mt" else 0.9)
            breaks = (Break(0, 0.3, 0.85),) if kind == "mt" else ()
            bones.append(Bone(f"{kind}{i + 1}", (Solid(form, at, tip, X, (scale, scale)),), breaks=breaks))
            at = tip + np.array([0, 0, 1.5])
    flesh = (
        _ellipsoid(_at(-1, 34, -16), (30, 25, 46), 0, 4),
        _ellipsoid(_at(2, 26, 40), (37, 27, 62), 0, 4),
        _ellipsoid(_at(-2, 44, 105), (46, 16, 52), 0, 3),
        _ellipsoid(_at(-2, 54, 146), (43, 11, 34), 0, 2),
    )
    return bones, flesh


def leg(rng: np.random.Generator) -> Anatomy:
    """Build a right leg: knee, whole lower leg, or ankle with foot; frontal or lateral."""
    frame = rng.random()
    return _leg(rng, "knee" if frame < 0.4 else "lower leg" if frame < 0.72 else "ankle")


def knee(rng: np.random.Generator) -> Anatomy:
    """Build a right knee, frontal or lateral."""
    return _leg(rng, "knee")


def lower_leg(rng: np.random.Generator) -> Anatomy:
    """Build a right lower leg with both its joints, frontal or lateral."""
    return _leg(rng, "lower leg")


def _leg(rng: np.random.Generator, shown: str) -> Anatomy:
    """Build a right leg, frontal or lateral, and look at its knee, lower leg or ankle."""
    lateral = rng.random() < 0.45
    foot, sole = _foot_bones()
    point = turn_about(X, -rng.uniform(-8, 25) if lateral else -rng.uniform(15, 50))  # the toes point down
    foot = _hinge(foot, _at(0, 12), point)
    sole = tuple(s.moved(point, _at(0, 12) - point @ _at(0, 12)) for s in sole)
    names = tuple(bone.name for bone in foot)
    ankle = _at(3, 372)
    below = [
        Bone(
            "tibia",
            (
                _limb(_TIBIA, _at(0, 6), _at(3, 372)),
                _ellipsoid(_at(-5, 8, -3), (4.5, 8, 6)),
                _ellipsoid(_at(7, 7, -3), (4.5, 8, 6)),
                _ellipsoid(_at(0, 38, 16), (9, 22, 8)),  # the tuberosity
                _ellipsoid(_at(20, 376, 1), (7, 14, 10)),
            ),
            breaks=(Break(0, 0.3, 0.88, names), Break(0, 0.08, 0.14, (*names, "fibula"))),
        ),
        Bone(
            "fibula",
            (_limb(_FIBULA, _at(-31, 23, -29), _at(-24, 396, -9)),),
            breaks=(Break(0, 0.8, 0.93), Break(0, 0.3, 0.8)),
        ),
        *(bone.moved(np.eye(3), ankle) for bone in foot),
    ]
    above = [
        Bone(
            "femur",
            (
                _limb(_FEMUR_DISTAL, _at(0, -260), _at(0, 0)),
                # both condyles, which one ray meets in a lateral view, and where they bear
                _ellipsoid(_at(0, -17, -9), (39, 18, 26)),
                *(_ellipsoid(_at(x, -9, -9), (19, 13.5, 25)) for x in (-21, 21)),
            ),
            breaks=(Break(0, 0.72, 0.84), Break(0, 0.5, 0.7)),
        ),
        Bone("patella", (_ellipsoid(_at(0, -32, 34), (21, 21, 8.5)),)),
    ]
    fat = rng.uniform(0.82, 1.12)
    thigh = _limb(_THIGH, _at(0, -270), _at(0, 25), fat)
    knee = _ellipsoid(_at(0, -8, 0), (57.5 * fat, 70, 61 * fat), 0, 5)
    calf = _limb(_CALF, _at(0, -25, -4), _at(2, 400, -4), fat)
    bend = turn_about(X, -rng.uniform(20, 100) if lateral else -rng.uniform(0, 4))
    pivot = _at(0, -12, -10)
    below = _hinge(below, pivot, bend)
    foot_flesh = tuple(s.moved(np.eye(3), ankle) for s in sole)
    lower_flesh = tuple(s.moved(bend, pivot - bend @ pivot) for s in (calf, *foot_flesh))
    if shown == "knee":
        along, field = rng.uniform(-10, 25), cassette(rng, large=rng.random() < 0.75)
    elif shown == "lower leg":
        along, field = rng.uniform(180, 200), (rng.uniform(430, 500), rng.uniform(330, 380))
    else:
        along, field = 345.0, (rng.uniform(250, 310), rng.uniform(210, 260))
    where = _at(0, along, 55 if lateral and shown == "ankle" else 0)
    centre = where if along < 60 else bend @ (where - pivot) + pivot
    part = Anatomy(
        (*above, *below), ((thigh, knee, *lower_flesh),), (), centre, field, "LL" if lateral else "AP", "R"
    )
    part = part.moved(turn_about(Y, 90 + rng.normal(0, 5) if lateral else rng.normal(0, 7)), np.zeros(3))
    if lateral and along >= 60:  # the film lies along the lower leg
        straight = turn_about(Z, float(np.degrees(np.arctan2(bend[2, 1], bend[1, 1]))))
        part = part.moved(straight, np.zeros(3))
    return part


def _chest(middle: float) -> tuple[list[Bone], list[tuple[Solid, ...]], list[Solid]]:
    """Ribs, spine, trunk and lungs around the midline at x = `middle`."""
    bones = []
    for i, wide in enumerate((52, 76, 93, 104, 111, 116, 119, 121, 122)):
        y = -62 + 25.0 * i
        drop, fall = 22 + 5 * i, 42 + 7 * i
        side = _at(middle - wide, y + drop, 0)
        back = _limb(_RIB, _at(middle - 15, y, -60), side)
        front = _limb(_RIB, _at(middle - 34 - i, y + drop + fall, 60), side, 0.95)
        # one bone, so that it is no denser where its halves meet
        rib = Bone(f"rib{i + 1}_r", (replace(back, across=-back.across), replace(front, cortex=0.8)))
        bones += [rib, _mirrored(rib, middle)]
    for i in range(16):
        y = -170 + 23.0 * i
        wide = 11 + 0.55 * i
        body = Solid(_BLOCK, _at(middle, y - 9.5, 0), _at(middle, y + 9.5, 0), X, (wide, wide), 1.3)
        bones.append(Bone(f"vertebra{i}", (body,)))
        for sign in (-1, 1):
            bones.append(
                Bone(f"pedicle{i}", (_ellipsoid(_at(middle + sign * wide * 0.62, y - 2, -20), (3, 4.5, 8)),))
            )
        bones.append(Bone(f"spinous{i}", (_ellipsoid(_at(middle, y + 6, -38), (2.6, 7, 12)),)))
    trunk = shape(
        [
            (0, 52, 52, 0, 0, 5),
            (0.16, 54, 55, 0, 0, 5),
            (0.25, 95, 62, 0, 0, 6),
            (0.33, 142, 78, 0, 0, 8),
            (0.5, 152, 98, 0, 0, 10),
            (1, 150, 105, 0, 0, 12),
        ],
        (0, 0),
    )
    flesh = [(_limb(trunk, _at(middle, -190), _at(middle, 330)),)]
    lungs = [_ellipsoid(_at(middle + s * 62, 70, 0), (49, 128, 47), s * -6) for s in (-1, 1)]
    heart = (_ellipsoid(_at(middle + 18, 128, 20), (54, 48, 26), -35, 0),)
    return bones, [*flesh, heart], lungs


def shoulder(rng: np.random.Generator) -> Anatomy:
    """Build a right shoulder with arm, scapula, clavicle, ribs and spine, from the front."""
    abduction = rng.uniform(4, 55) if rng.random() < 0.75 else rng.uniform(55, 85)
    middle = rng.uniform(148, 160)
    turn = turn_about(Z, abduction)
    humerus = Bone(
        "humerus",
        (
            _limb(_HUMERUS_PROXIMAL, _at(-10, -22), _at(-8, 290)),
            _ellipsoid(_at(2, -2), (22, 24, 23), 0, 1.2),
            _ellipsoid(_at(-21, -8), (9, 17, 14), 8),
        ),
        breaks=(Break(0, 0.15, 0.2), Break(0, 0.3, 0.6)),
    )
    humerus = _hinge([humerus], _at(0, 0), turn)[0]
    blade = np.array(
        [
            (26, -16),
            (45, -34),
            (75, -46),
            (98, -48),
            (108, -30),
            (104, 20),
            (96, 70),
            (84, 112),
            (74, 120),
            (62, 96),
            (44, 58),
            (28, 32),
            (22, 10),
        ],
        np.float64,
    )
    outline = np.column_stack([blade, np.full(len(blade), -30.0)])
    scapula = Bone(
        "scapula",
        (
            _ellipsoid(_at(25, 6), (5.5, 21, 13), -6, 1.4),
            Solid(_ROD, _at(24, 22, -25), _at(78, 116, -35), X, (4.5, 5)),
            Solid(_ROD, _at(106, -14, -35), _at(8, -43, -25), Y, (4.2, 8)),
            _ellipsoid(_at(-8, -45, -10), (22, 6.5, 17), -12),
            Solid(_ROD, _at(34, -20, -8), _at(8, -22, 18), Y, (7, 7)),
        ),
        (Plate(outline, 1.6, 3.0),),
    )
    clavicle = Bone(
        "clavicle",
        (_limb(_CLAVICLE, _at(10, -50, 0), _at(middle - 16, -34 + rng.uniform(-14, 14), 40)),),
        breaks=(Break(0, 0.35, 0.68),),
    )
    raised = _at(0, rng.uniform(-8, 6))
    bones, flesh, lungs = _chest(middle)
    arm = _limb(_SHOULDER_ARM, _at(-10, -62), _at(-8, 330), rng.uniform(0.95, 1.15))
    deltoid = _ellipsoid(_at(-6, 8), (52, 66, 48), 0, 5)
    arm, deltoid = (s.moved(turn, np.zeros(3)) for s in (arm, deltoid))
    girdle = _ellipsoid(_at(52, -16), (98, 56, 50), -12, 5)
    girdle_bones = [b.moved(np.eye(3), raised) for b in (scapula, clavicle)]
    wide = rng.random() < 0.4
    centre = _at(middle * 0.55, 75) if wide else _at(rng.uniform(28, 50), rng.uniform(18, 45))
    field = (
        (rng.uniform(330, 390), rng.uniform(330, 380))
        if wide
        else (rng.uniform(230, 280), rng.uniform(230, 280))
    )
    trunk, heart = flesh
    part = Anatomy(
        (humerus, *girdle_bones, *bones),
        ((*trunk, arm, deltoid, girdle), heart),
        tuple(lungs),
        centre,
        field,
        "AP",
        "R",
    )
    return part.moved(turn_about(Y, rng.normal(0, 4)), np.zeros(3))


def hip(rng: np.random.Generator) -> Anatomy:
    """Build a pelvis with both hips from the front; the picture shows all of it or one hip."""
    spread = rng.uniform(0.96, 1.04)
    wing = np.array(
        [
            (-117, 22),
            (-127, -8),
            (-146, -40),
            (-152, -58),
            (-147, -84),
            (-130, -112),
            (-104, -130),
            (-74, -128),
            (-52, -112),
            (-42, -88),
            (-44, -55),
            (-52, -25),
            (-66, 2),
            (-82, 18),
        ],
        np.float64,
    )
    outline = np.column_stack([wing, np.zeros(len(wing))])
    line = shape(
        [
            (0, 2.6, 4, 0, 0, 1.2),
            (0.15, 3, 5, -13, 0, 1.2),
            (0.35, 3.4, 6, -23, 0, 1.2),
            (0.55, 3.6, 7, -25, 0, 1.3),
            (0.8, 3.2, 7, -15, 0, 1.2),
            (1, 3, 5, 0, 0, 1.2),
        ],
        (0.05, 0.05),
    )
    arc = ((0, 0), (0.25, 9.6), (0.5, 13.0), (0.75, 9.6), (1, 0))
    roof = shape([(t, 1.6, 6, -bow, 0, 1.2) for t, bow in arc], (0.15, 0.15))
    ramus = shape([(0, 12, 9, 0, 0, 1.4), (0.5, 7.6, 7.5, 3, 0, 1.6), (1, 10, 8, 0, 0, 1.4)], (0.12, 0.12))
    pelvis = Bone(
        "pelvis_r",
        (
            _ellipsoid(_at(-88, 34), (30, 31, 9), 0, 0.8),
            _ellipsoid(_at(-84, -18), (27, 58, 8), 24, 0),
            _limb(line, _at(-46, -54), _at(-18, 76)),
            _limb(ramus, _at(-88, 52), _at(-68, 140), 1.25),
            _ellipsoid(_at(-69, 130), (15, 21, 13), 12, 1.4),
            _limb(ramus, _at(-84, 58), _at(-10, 86)),
            _ellipsoid(_at(-13, 94), (10, 19, 9), 0, 1.2),
            _limb(ramus, _at(-8, 100), _at(-66, 144), 0.85),
        ),
        (Plate(outline, 3.8, 4.5),),
    )
    sourcil = Bone("sourcil_r", (_limb(roof, _at(-62, 22), _at(-114, 24)),))
    abduction = rng.uniform(-3, 14)
    head = _at(-90, 41)
    femur = Bone(
        "femur_r",
        (
            _limb(_FEMUR_PROXIMAL, _at(-146, 36), _at(-126, 330), 1.0, rng.uniform(0.8, 1.1)),
            Solid(_FEMUR_NECK, _at(-136, 82), _at(-96, 47), turn_about(Z, 41) @ Y, (1, 1)),
            _ellipsoid(head, (24.5, 24.5, 24.5), 0, 1.2),
            _ellipsoid(_at(-114, 108, -8), (8, 15, 8), 20),
        ),
        breaks=(Break(1, 0.5, 0.8), Break(1, 0.15, 0.4), Break(0, 0.4, 0.6)),
    )
    femora = [
        _hinge([femur], head, turn_about(Z, abduction))[0],
        _mirrored(_hinge([femur], head, turn_about(Z, abduction + rng.normal(0, 3)))[0], 0),
    ]
    keel = shape(
        [
            (0, 52, 15, 0, 0, 0.9),
            (0.3, 43, 16, 0, 0, 0.9),
            (0.55, 30, 14, 0, 0, 0.9),
            (0.8, 19, 10, 0, 0, 0.9),
            (1, 8, 6, 0, 0, 0.8),
        ],
        (0.05, 0.1),
    )
    midline = [Bone("sacrum", (_limb(keel, _at(0, -98), _at(0, 38)), _ellipsoid(_at(0, 48), (6, 14, 5))))]
    for i in range(5):
        y = -114 - 35.0 * i
        body = Solid(_BLOCK, _at(0, y - 14), _at(0, y + 14), X, (25 - i, 18), 1.4)
        wings = [_ellipsoid(_at(s * 38, y - 4, -15), (17, 4.5, 4)) for s in (-1, 1)]
        rings = [
            Bone(f"pedicle{i}{s}", (_ellipsoid(_at(s * 15, y - 4, -22), (5, 7.5, 12), 0, 1.5),))
            for s in (-1, 1)
        ]
        midline += [Bone(f"lumbar{i}", (body, *wings)), *rings]
        midline.append(Bone(f"spinous{i}", (_ellipsoid(_at(0, y + 10, -45), (3.5, 12, 16)),)))
    holes = [
        _ellipsoid(_at(s * (27 - 5 * i), -68 + 24 * i, -10), (3.6, 4.6, 11), s * 20, 0)
        for i in range(3)
        for s in (-1, 1)
    ]
    gas = [
        _ellipsoid(
            _at(rng.uniform(-110, 110), rng.uniform(-190, 10), 30),
            tuple(rng.uniform(6, 22, 3)),
            rng.uniform(0, 90),
            0,
        )
        for _ in range(int(rng.integers(2, 9)))
    ]
    fat = rng.uniform(0.88, 1.1)
    trunk = shape(
        [
            (0, 150, 100, 0, 0, 16),
            (0.45, 168, 104, 0, 0, 18),
            (0.75, 185, 100, 0, 0, 20),
            (0.9, 175, 80, 0, 0, 18),
            (1, 150, 50, 0, 0, 12),
        ],
        (0, 0.1),
    )
    belly = _limb(trunk, _at(0, -260), _at(0, 150), fat)
    upper_leg = shape(
        [(0, 60, 50, 0, 0, 10), (0.2, 80, 76, 0, 0, 12), (0.5, 84, 80, 0, 0, 10), (1, 74, 76, 0, 0, 9)],
        (0.3, 0),
    )
    thighs = [
        _limb(upper_leg, _at(s * 92, -60), _at(s * (108 + abduction), 420), max(fat, 0.97)) for s in (-1, 1)
    ]
    right = (pelvis, sourcil)
    bones = (*midline, *right, *(_mirrored(b, 0) for b in right), *femora)
    if rng.random() < 0.6:
        centre, field = (
            _at(rng.normal(0, 6), rng.uniform(5, 30)),
            (rng.uniform(330, 370), rng.uniform(380, 430)),
        )
    else:
        centre, field = _at(-100, 70 + rng.uniform(-20, 20)), (rng.uniform(230, 290), rng.uniform(230, 280))
    stretch = np.diag([spread, 1.0, 1.0])
    part = Anatomy(bones, ((belly, *thighs),), (*gas, *holes), centre, field, "AP", "R")
    return part.moved(stretch @ turn_about(Y, rng.normal(0, 2.5)), np.zeros(3))


#: How each region is built.
BUILDERS: dict[str, Callable[[np.random.Generator], Anatomy]] = {
    "hand": hand,
    "elbow": elbow,
    "shoulder": shoulder,
    "hip": hip,
    "leg": leg,
}
#: Parts of the leg on their own.
LEG_BUILDERS: dict[str, Callable[[np.random.Generator], Anatomy]] = {"knee": knee, "lower_leg": lower_leg}
