"""The same bytes twice in one study are kept once, in whatever order their chunks end."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import select

from store.base.session import session_scope
from store.base.tables import Image, Study
from store.intake import batches
from store.intake.batches import NewFile
from store.reading import studies

SAME = "a" * 64


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_copy_is_kept_whichever_chunk_is_first(site: uuid.UUID, order: tuple[int, int]) -> None:
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None)
        files = [NewFile(f"{i}.dcm", SAME, 10, f"incoming/{i}") for i in range(2)]
        ids = [answer.image_id for answer in batches.add_files(session, batch.id, site, files)]
    copies = []
    for which in order:  # one chunk after the other
        with session_scope() as session:
            image = session.scalars(select(Image).where(Image.id == ids[which])).one()
            image.study_uid, image.passed = "1.2.3", "prepare"
            studies.assign(session, [image])
            session.flush()
            copies.append(studies.first_copies(session, [image]))
    first, second = (ids[which] for which in order)
    assert copies == [{}, {second: first}]
    with session_scope() as session:  # and the first chunk once more, after its worker was lost
        image = session.scalars(select(Image).where(Image.id == first)).one()
        twin = session.scalars(select(Image).where(Image.id == second)).one()
        twin.status = "rejected"
        session.flush()
        assert studies.first_copies(session, [image]) == {}


def put(site: uuid.UUID, *facts: dict[str, str], name: str = "") -> list[Image]:
    """Assign one image for each of `facts`, as one chunk of a batch of their own."""
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None)
        files = [
            NewFile(f"{name}{i}.dcm", uuid.uuid4().hex * 2, 10, f"incoming/{i}") for i in range(len(facts))
        ]
        ids = [answer.image_id for answer in batches.add_files(session, batch.id, site, files)]
        images = [session.get_one(Image, id_) for id_ in ids]
        for image, said in zip(images, facts, strict=True):
            for field, value in said.items():
                setattr(image, field, value)
        studies.assign(session, images)
        session.flush()
        return images


def shared(image: Image) -> bool:
    with session_scope() as session:
        return session.get_one(Study, image.study_id).uid_shared


UID = "1.2.826.0.1.3680043.8.498.77"
ANA = {"study_uid": UID, "patient_hash": "aa", "accession": "ACC-1"}


@pytest.mark.parametrize(
    "other",
    [{"patient_hash": "bb"}, {"accession": "ACC-2"}, {"patient_hash": ""}],
    ids=["another patient", "another accession number", "no patient"],
)
def test_images_that_disagree_get_a_study_of_their_own_and_both_are_marked(
    site: uuid.UUID, other: dict[str, str]
) -> None:
    first = put(site, ANA)[0]
    assert not shared(first)
    theirs = put(site, ANA | other)[0]
    assert first.study_id != theirs.study_id
    assert shared(first)
    assert shared(theirs)
    # whoever comes later finds the own study, in one chunk too
    again = put(site, ANA | other, ANA, ANA | other)
    assert [image.study_id for image in again] == [theirs.study_id, first.study_id, theirs.study_id]


def test_an_accession_number_that_is_not_stated_contradicts_none(site: uuid.UUID) -> None:
    silent = put(site, ANA | {"accession": ""})[0]
    stated, silent_again = put(site, ANA, ANA | {"accession": ""})
    assert silent.study_id == stated.study_id == silent_again.study_id
    assert not shared(silent)
    with session_scope() as session:
        assert session.get_one(Study, silent.study_id).accession == "ACC-1"
    other = put(site, ANA | {"accession": "ACC-2"})[0]
    assert other.study_id != silent.study_id
    unclear = put(site, ANA | {"accession": ""})[0]  # whose it is cannot be told any more
    assert unclear.study_id not in {silent.study_id, other.study_id}
    assert shared(unclear)


def test_an_anonymisers_constant_uid_joins_no_patients(site: uuid.UUID) -> None:
    images = put(site, *(ANA | {"patient_hash": f"{i:02x}", "accession": ""} for i in range(40)))
    assert len({image.study_id for image in images}) == 40
    assert all(shared(image) for image in images)


def test_rows_of_a_manifest_that_disagree_are_kept_apart(site: uuid.UUID) -> None:
    row = {"manifest_study": "S1", "accession": "ACC-1"}
    one, two, silent = put(site, row, row | {"accession": "ACC-2"}, row | {"accession": ""})
    assert len({one.study_id, two.study_id, silent.study_id}) == 3
    assert all(shared(image) for image in (one, two, silent))


def test_a_number_never_changes_and_copies_share_it(site: uuid.UUID) -> None:
    later = put(site, ANA, ANA, name="m")
    earlier_path = put(site, ANA, name="a")[0]
    assert [image.number for image in later] == [1, 2]
    assert earlier_path.number == 3  # though its path comes first
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None)
        file = NewFile("again.dcm", later[1].sha256, 10, "incoming/again")
        copy = session.get_one(Image, batches.add_files(session, batch.id, site, [file])[0].image_id)
        copy.study_uid, copy.patient_hash, copy.accession = UID, "aa", "ACC-1"
        studies.assign(session, [copy])
        assert copy.number == 2


def test_what_failed_before_its_header_was_read_leaves_no_study_behind(site: uuid.UUID) -> None:
    failed = put(site, {})[0]
    with session_scope() as session:
        image = session.get_one(Image, failed.id)
        image.study_uid = UID
        studies.assign(session, [image])
    with session_scope() as session:
        assert session.get(Study, failed.study_id) is None
        assert session.get_one(Image, failed.id).study_id is not None
