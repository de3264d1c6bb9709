"""Further views of the arm's bones: finger, wrist, forearm and humerus, as the seven regions of MURA ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from phantoms.anatomy import (
    FOREARM,
    FOREARM_SHIFT,
    FOREARM_TURN,
    UPPER_ARM,
    Anatomy,
    Bone,
    Break,
    Solid,
    Vector,
    X,
    Y,
    Z,
    cassette,
    forearm_bones,
    hand_and_forearm,
    shoulder,
    turn_about,
    upper_arm_bones,
)

_RAYS = "12345"
_HERE = np.zeros(3)


def _middle(solid: Solid) -> Vector:
    return (solid.start + solid.end) / 2


def _upright(part: Anatomy, axis: Vector) -> Anatomy:
    """Turn a part in the picture so that `axis` points up or down it."""
    return part.moved(turn_about(Z, float(np.degrees(np.arctan2(axis[0], axis[1])))), _HERE)


def _pose(rng: np.random.Generator, lateral: float, oblique: float = 0.0) -> tuple[str, float]:
    """Draw a view and its turn about the limb's axis, degrees."""
    kind = rng.random()
    if kind < lateral:
        return "LL", 90 + rng.normal(0, 6)
    return ("OBL", rng.uniform(25, 50)) if kind < lateral + oblique else ("PA", rng.normal(0, 6))


def _fuller(flesh: Solid) -> tuple[float, float]:
    factor = 0.72 + 0.009 * float(np.linalg.norm(flesh.end - flesh.start))
    return flesh.girth[0] * factor, flesh.girth[1] * factor


def finger(rng: np.random.Generator) -> Anatomy:
    """Build one finger of a left hand: from the back with its neighbours, or alone from the side."""
    _, bones, (_, palm, *fingers) = hand_and_forearm(rng)
    ray = _RAYS[int(rng.integers(5))]
    own = tuple(bone for bone in bones if bone.name[-1:] == ray)
    view, degrees = _pose(rng, 0.45, 0.2)
    near = [_middle(bone.solids[0]) for bone in own]
    # fuller towards the hand: at this size the taper of a finger is seen
    fingers = [replace(s, girth=_fuller(s)) for s in fingers]
    if view == "LL":  # the others are held out of the way
        shown = own
        fingers = [s for s in fingers if min(np.linalg.norm(_middle(s) - at) for at in near) < 14]
    else:
        shown = tuple(bone if bone in own else replace(bone, breaks=()) for bone in bones)
    base, tip = own[1].solids[0].start, own[-1].solids[0].end
    axis = (tip - base) / np.linalg.norm(tip - base)
    long = float(np.linalg.norm(tip - base))
    centre = base + axis * long * rng.uniform(0.42, 0.5)
    part = Anatomy(
        shown,
        ((palm, *fingers),),
        (),
        centre,
        (long * rng.uniform(1.25, 1.5), rng.uniform(58, 85)),
        view,
        "L",
    )
    part = _upright(part, axis)
    return part.moved(turn_about(Y, degrees), _HERE)


def wrist(rng: np.random.Generator) -> Anatomy:
    """Build a left wrist between the metacarpals and the lower forearm, from the back or from the side."""
    forearm, bones, flesh = hand_and_forearm(rng)
    view, degrees = _pose(rng, 0.4, 0.15)
    high = rng.uniform(135, 190)
    coned = high, high * rng.uniform(0.62, 0.85)
    field = coned if rng.random() < 0.25 else cassette(rng, large=False)
    centre = np.array([0, rng.uniform(-12, 12), 0.0])
    part = Anatomy((*forearm, *bones), (flesh,), (), centre, field, view, "L")
    return part.moved(turn_about(Y, degrees), _HERE)


def forearm(rng: np.random.Generator) -> Anatomy:
    """Build a left forearm with both its joints, from the front or from the side."""
    lower, bones, flesh = hand_and_forearm(rng)
    carried = tuple(bone.name for bone in (*lower, *bones))
    upper = [
        replace(bone, breaks=tuple(replace(site, carries=carried) for site in bone.breaks)).moved(
            FOREARM_TURN, FOREARM_SHIFT
        )
        for bone in upper_arm_bones()
    ]
    arm = Solid(UPPER_ARM, -230 * Y, 22 * Y, X).moved(FOREARM_TURN, FOREARM_SHIFT)
    view, degrees = _pose(rng, 0.45)
    part = Anatomy(
        (*upper, *lower, *bones),
        ((*flesh, arm),),
        (),
        np.array([-4, rng.uniform(112, 140), 0.0]),
        cassette(rng, large=True),
        view,
        "L",
    )
    return part.moved(turn_about(Z, 180.0 * (rng.random() < 0.5)) @ turn_about(Y, degrees), _HERE)


def humerus(rng: np.random.Generator) -> Anatomy:
    """Build a right upper arm from shoulder to elbow, from the front, the trunk beside it."""
    part = shoulder(rng)
    bone, *others = part.bones
    shaft = bone.solids[0]
    axis = (shaft.end - shaft.start) / np.linalg.norm(shaft.end - shaft.start)
    elbow = shaft.start + axis * rng.uniform(305, 335)
    down = turn_about(Z, float(np.degrees(np.arctan2(-axis[0], axis[1]))))  # Y comes to lie along the arm
    (lower,) = (b.moved(down, elbow) for b in upper_arm_bones())
    carried = ("radius", "ulna")
    whole = Bone(
        "humerus",
        (*bone.solids, *lower.solids),
        breaks=(
            Break(0, 0.12, 0.2, carried),
            Break(0, 0.3, 0.85, carried),
            Break(len(bone.solids), 0.84, 0.92, carried),
        ),
    )
    flesh, *rest = part.flesh
    limb = [
        solid.moved(down, elbow)
        for solid in (Solid(UPPER_ARM, -230 * Y, 30 * Y, X), Solid(FOREARM, -22 * Y, 262 * Y, X))
    ]
    part = Anatomy(
        (whole, *others, *(b.moved(down, elbow) for b in forearm_bones())),
        ((*flesh, *limb), *rest),
        part.air,
        shaft.start + axis * rng.uniform(135, 190),
        cassette(rng, large=True),
        "AP",
        "R",
    )
    return _upright(part, axis)


#: How each further region is built.
ARM_BUILDERS: dict[str, Callable[[np.random.Generator], Anatomy]] = {
    "finger": finger,
    "wrist": wrist,
    "forearm": forearm,
    "humerus": humerus,
}
