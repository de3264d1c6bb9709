"""Research as people and programs see it: runs and comparisons with figures; which bundle serves."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from cli.main import main
from cli.research import compared_rows
from pipeline import comparison
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import Audit, Finding, Image, Site
from store.research.research_tables import Comparison, Dataset, DatasetImage, FindingScore, Run
from tests.web.asking import Asker
from tests.web.evaluated import REGIONS, make_evaluated_world, records
from tests.web.world import World, make_world
from web.research.pages import Place, heat_squares, place_of


@pytest.fixture
def world(app: Any, site_key: str) -> World:
    """A researcher's site with an evaluated run of two bundles and a comparison."""
    world, _ = make_evaluated_world(app, fitted_on={0: "file", 2: "look"}, overlap=3, data_says="abnormal")
    with session_scope() as session:
        run = session.get_one(Run, world.ids["run_id"])
        image = session.scalars(select(Image).where(Image.batch_id == run.batch_id)).one()
        image.width, image.height = 200, 100
        for name, forced in (("b1", False), ("b2", True)):
            cam = struct.pack("<4e", 0, 1, 2, 4)
            finding = Finding(
                site_id=run.site_id,
                sha256=image.sha256,
                bundle=name,
                precision="float32",
                region="lower_leg",
                region_probability=0.9,
                region_probabilities={"lower_leg": 0.9},
                not_assessable="region_unsure" if forced else None,
                probability=None if forced else 0.7,
                cam=None if forced else cam,
                cam_height=2,
                cam_width=2,
            )
            session.add(finding)
            session.flush()
            if forced:
                session.add(
                    FindingScore(
                        finding_id=finding.id, network="n", logit=0.1, cam=cam, cam_height=2, cam_width=2
                    )
                )
    return world


def page(world: World, app: Any, address: str) -> str:
    answer = world.browser(app.test_client()).client.get(address)
    assert answer.status_code == 200, answer.text[:2000]
    if folder := os.environ.get("FRACTUREAI_SHOW_PAGES"):
        Path(folder, f"{address.strip('/').replace('/', '-').replace('?', '-')}.html").write_text(answer.text)
    return answer.text


def test_a_part_of_two_words_is_written_as_two(app, world):
    with session_scope() as session:
        run = session.get_one(Run, world.ids["run_id"])
        renamed = json.dumps(run.figures).replace('"hand"', '"lower_leg"')
        run.figures = json.loads(renamed)
        comparison = session.get_one(Comparison, world.ids["comparison_id"])
        comparison.figures = json.loads(json.dumps(comparison.figures).replace('"hand"', '"lower_leg"'))
    for address in (f"/research/runs/{run.id}", f"/research/comparisons/{comparison.id}"):
        text = page(world, app, address)
        said = re.sub(r'value="[^"]*"|<script.*?</script>|<details.*?</details>', "", text, flags=re.DOTALL)
        assert "lower leg" in said
        assert "lower_leg" not in said


def test_a_run_s_page_shows_its_figures_and_saves_as_one_file(app, world):
    address = f"/research/runs/{world.ids['run_id']}"
    text = page(world, app, address)
    for words in (
        "By study",
        "Mind the labels",
        "elbow",
        "seen as hand",
        "What the routing costs",
        "by force",
        "3 are among those that the bundle was fitted on: 0 by the hash of the file, 3 by their looks.",
    ):
        assert words in text
    with session_scope() as session:
        auc = session.get_one(Run, world.ids["run_id"]).figures["b2"]["study"]["pooled"]["figures"]["auc"]
    assert f"{auc['value']:.3f}" in text
    saved = page(world, app, f"{address}?export")
    assert "<style>" in saved
    assert "seen as hand" in saved
    assert "What the routing costs" in saved
    assert "<script" not in saved
    assert 'href="/' not in saved.replace('href="/static', "")
    assert "&#34;made_with&#34;" in saved


def test_a_comparison_s_page_says_its_verdict_plainly(app, world):
    address = f"/research/comparisons/{world.ids['comparison_id']}"
    text = page(world, app, address)
    assert "b2 is better than b1" in text
    assert "<strong>2 images are</strong> among those that one of the bundles was fitted on" in text
    assert "Found by the hash of the file: 1; by looks alone, as a copy that was saved again: 1." in text
    assert 'valid/2.png <span class="muted">by its looks</span>' in text
    assert text.count("Mind the labels") == 4  # in every table's section
    assert f"{address}/images/1" in text
    assert "images/1" not in page(world, app, f"{address}?export")


def test_both_attention_maps_stand_side_by_side(app, world):
    text = page(world, app, f"/research/runs/{world.ids['run_id']}/images/1")
    assert text.count('class="heat"') == 2
    assert "Scored by force" in text


def test_a_comparison_opens_both_maps_though_the_bundles_were_run_apart(app, world):
    with session_scope() as session:
        run = session.get_one(Run, world.ids["run_id"])
        run.bundles = ["b1"]  # b2 scored the same images in another run
    assert page(world, app, f"/research/runs/{run.id}/images/1").count('class="heat"') == 1
    text = page(world, app, f"/research/comparisons/{world.ids['comparison_id']}/images/1")
    assert text.count('class="heat"') == 2
    assert f"/runs/{run.id}/images/1/attention/b1" in text  # b1's is kept as a picture
    assert "attention/b2" not in text


def test_a_run_is_deleted_then_its_data_set(app, world):
    browser = world.browser(app.test_client())
    run, dataset = world.ids["run_id"], world.ids["dataset_id"]
    assert "Remove…" not in page(world, app, f"/research/datasets/{dataset}")
    ask = Asker(app.test_client(use_cookies=False), world.key)
    assert ask("DELETE", f"/datasets/{dataset}").json["code"] == "dataset_in_use"
    assert "Delete this run" in page(world, app, f"/research/runs/{run}")
    answer = browser.client.post(f"/research/runs/{run}/delete", data={"csrf": browser.csrf})
    assert (answer.status_code, answer.location) == (303, "/research")
    assert ask.get(f"/runs/{run}").status_code == 404
    assert ask.get(f"/comparisons/{world.ids['comparison_id']}").status_code == 404
    assert str(run) not in page(world, app, "/research")
    assert "Remove this data set" in page(world, app, f"/research/datasets/{dataset}")
    assert ask("DELETE", f"/datasets/{dataset}").status_code == 204
    assert ask.get(f"/datasets/{dataset}").status_code == 404
    with session_scope() as session:
        said = session.scalars(select(Audit.action).order_by(Audit.id)).all()
    assert [a for a in said if a.endswith("_deleted")] == ["run_deleted", "dataset_deleted"]


def test_the_command_deletes_a_run(serving, world, monkeypatch):
    monkeypatch.setenv("FRACTUREAI_API_KEY", world.key)
    kept = CliRunner().invoke(main, ["runs", "delete", "latest"], input="n\n")
    assert kept.exit_code == 1
    done = CliRunner().invoke(main, ["runs", "delete", "latest", "--yes"])
    assert f"Run {world.ids['run_id']} is deleted." in done.output, done.output
    gone = CliRunner().invoke(main, ["runs", "show", str(world.ids["run_id"])])
    assert gone.exit_code == 2
    assert "0 runs begin with" in gone.output


def test_a_run_that_goes_on_is_not_deleted(app, world):
    ask = Asker(app.test_client(use_cookies=False), world.key)
    made = ask.post("/runs", json={"dataset": world.marker, "bundles": ["b1"]}).json["id"]
    assert ask("DELETE", f"/runs/{made}").json["code"] == "run_in_use"
    assert "Delete this run" not in page(world, app, f"/research/runs/{made}")


def test_heat_squares_lie_where_the_letterboxed_map_does():
    said: Any = SimpleNamespace(cam=struct.pack("<4e", 0, 1, 2, 4), cam_height=2, cam_width=2)
    assert heat_squares(said, 200, 100) == [
        (100.0, -50.0, 100.0, 0.25),
        (0.0, 50.0, 100.0, 0.5),
        (100.0, 50.0, 100.0, 1.0),
    ]


def test_the_lists_and_forms(app, world):
    assert world.marker in page(world, app, "/research")
    assert "Start the run" in page(world, app, f"/research/datasets/{world.ids['dataset_id']}")
    browser = world.browser(app.test_client())
    answer = browser.client.post(
        "/research/runs", data={"csrf": browser.csrf, "dataset": world.marker, "bundles": ["b1", "b2"]}
    )
    assert answer.status_code == 303
    with session_scope() as session:
        made = session.scalars(select(Run).order_by(Run.created_at.desc()).limit(1)).one()
    assert answer.location.endswith(str(made.id))
    assert made.bundles == ["b1", "b2"]


def test_the_api_steers_runs_and_a_run_s_batch_is_no_batch(app, world):
    ask = Asker(app.test_client(use_cookies=False), world.key)
    made = ask.post("/runs", json={"dataset": world.marker, "bundles": ["b1"]})
    assert made.status_code == 201
    address = f"/runs/{made.json['id']}"
    for action, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        answer = ask.post(f"{address}/{action}")
        assert answer.status_code == 202
        if action != "cancel":
            assert answer.json["status"] == status
    batch = made.json["progress"]["id"]
    assert ask.get(f"/batches/{batch}").status_code == 404
    assert ask.post(f"/batches/{batch}/retry").status_code == 404
    assert batch not in str(ask.get("/batches").json)
    assert (
        ask.post("/runs", json={"dataset": world.marker, "bundles": ["none"]}).json["code"]
        == "unknown_bundle"
    )
    assert (
        ask.post("/runs", json={"dataset": world.marker, "bundles": ["b1"], "part": "x"}).status_code == 409
    )


def test_a_run_s_document_holds_what_repeats_it(app, world):
    ask = Asker(app.test_client(use_cookies=False), world.key)
    document = ask.get(f"/runs/{world.ids['run_id']}").json
    with session_scope() as session:
        dataset = session.get_one(Dataset, world.ids["dataset_id"])
        assert session.scalar(select(func.count()).select_from(DatasetImage)) == 1
    assert document["made_with"]["dataset"]["sha256"] == dataset.sha256
    assert document["made_with"]["bundles"]["b1"]["sha256"] == "0" * 64
    assert document["made_with"]["precision"] == "float32"
    assert document["figures"]["b1"]["study"]["pooled"]["n"] == 120


def test_a_bundle_is_promoted_rolled_back_and_set_to_shadow(app, world):
    admin = make_world(app, Role.ADMIN)
    ask = Asker(app.test_client(use_cookies=False), admin.key)
    assert ask.post("/bundles/rollback").json["code"] == "nothing_to_roll_back"
    assert ask.post("/bundles/promote", json={"bundle": "b2"}).json == {
        "default": "b2",
        "shadow": None,
        "rollback_to": "b1",
    }
    assert ask.post("/bundles/shadow", json={"bundle": "b1"}).json["shadow"] == "b1"
    assert "Roll back to b1" in page(admin, app, "/bundles")
    assert ask.post("/bundles/rollback", json={"bundle": "b2"}).json["code"] == "rollback_changed"
    assert ask.post("/bundles/rollback").json == {"default": "b1", "shadow": None, "rollback_to": None}
    assert "There is nothing to roll back to." in page(admin, app, "/bundles")
    with session_scope() as session:
        site = session.scalars(select(Site).where(Site.name == admin.marker)).one()
        said = session.scalars(select(Audit.action).where(Audit.site_id == site.id).order_by(Audit.id)).all()
        other = session.scalars(select(Site.default_bundle).where(Site.name == world.marker)).one()
    assert [a for a in said if a.startswith("bundle_")] == [
        "bundle_promote",
        "bundle_shadow",
        "bundle_rollback",
    ]
    assert other == "b1"


def test_changed_images_are_narrowed_and_walked(app, world):
    address = f"/research/comparisons/{world.ids['comparison_id']}"
    with session_scope() as session:
        changed = session.get_one(Comparison, world.ids["comparison_id"]).figures["changed_images"]
    right = [c for c in changed if c["right"] and c["region"] == "elbow"]
    text = page(world, app, f"{address}?right=yes&region=elbow&to=")
    assert text.count('<li><a href="/research/comparisons/') == len(right) > 0
    assert f"{right[0]['b']:.1%}".replace("%", "") in text
    listed = [{"number": n} for n in (4, 9, 2)]
    assert place_of(9, listed) == Place(2, 3, 4, 2)
    assert place_of(4, listed) == Place(1, 3, None, 9)
    assert place_of(1, listed) is None
    assert page(world, app, f"{address}/images/1?right=yes").count("changed images") == 1


def test_runs_stand_side_by_side(app, world):
    text = page(world, app, "/research")
    with session_scope() as session:
        figures = session.get_one(Run, world.ids["run_id"]).figures
    for bundle in ("b1", "b2"):
        assert f"{figures[bundle]['study']['pooled']['figures']['auc']['value']:.3f}" in text
    shown = page(world, app, f"/research/runs/{world.ids['run_id']}")
    worst = figures["b2"]["study_worst"]["figures"]["auc"]["value"]
    assert f"{worst:.3f}" in shown.split("By study, worst image")[1]
    assert "data-roc-slider" in shown


def test_the_command_prints_a_table_of_regions():
    figures = comparison.compare(records(1.0, 1), records(2.0, 2), margin=0.02, rounds=50)
    rows = compared_rows(figures)
    assert [row[0] for row in rows] == ["all", "elbow", "hand", "wrist"]
    for row, said in zip(rows, [figures["pooled"], *(figures["regions"][r] for r in REGIONS)], strict=True):
        assert row[2:5] == (f"{said['a']:.3f}", f"{said['b']:.3f}", f"{said['difference']:+.3f}")
    assert rows[0][6] == ""
    assert all(row[6] for row in rows[1:])
