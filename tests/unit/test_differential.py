"""Every pair of a film's properties, held against pydicom's own rendering of the same file."""

from __future__ import annotations

import itertools

import numpy as np

from pipeline.decode import decode as decode_confined
from pipeline.decode.picture import decode
from tests.films import PROPERTIES, combinations, films, possible


def test_every_pair_of_properties_is_in_a_film():
    chosen = combinations()
    assert len(chosen) >= 300
    there = {pair for film in chosen for pair in itertools.combinations(film.items(), 2)}
    for a, b in itertools.combinations(PROPERTIES, 2):
        for x, y in itertools.product(PROPERTIES[a], PROPERTIES[b]):
            others = [name for name in PROPERTIES if name not in {a, b}]
            can = any(
                possible({a: x, b: y} | dict(zip(others, rest, strict=True)))
                for rest in itertools.product(*(PROPERTIES[name] for name in others))
            )
            assert can == (((a, x), (b, y)) in there), (x, y)


def test_each_is_shown_as_pydicom_shows_it():
    wrong = []
    for film in films():
        found = decode(film.data, max_pixels=10**6, pseudonymise=str)
        again = decode(found.stored, max_pixels=10**6, pseudonymise=str)
        off = np.abs(found.pixels - film.expected).max()
        # pydicom cuts the fractions that a rescale leaves before it looks them up, we round them
        most = 3 if (film.properties["modality"], film.properties["voi"]) == ("rescale", "lut") else 1.1
        if off > most or found.flags or not np.array_equal(again.pixels, found.pixels):
            steps = [step.code.value for step in found.rendering]
            wrong.append((film.name, round(float(off), 1), found.flags, steps))
    assert not wrong


def test_each_is_shown_alike_in_the_sandbox():
    """Every way through the decoder is open to the confined process: it can import nothing any more."""
    for film in itertools.islice(films(), 0, None, 3):
        found = decode(film.data, max_pixels=10**6, pseudonymise=str)
        confined = decode_confined(film.data, max_pixels=10**6, pseudonymise=str)
        np.testing.assert_array_equal(confined.pixels, found.pixels, film.name)
        assert (confined.flags, confined.rendering) == (found.flags, found.rendering)
