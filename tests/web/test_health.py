"""Alive, ready, busy: and what is told when a server is gone."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from cli.embedded import free_port
from settings import get_settings
from store.base import session as session_module
from store.base.session import session_scope
from store.base.tables import Maintenance, Site, Worker
from store.operations import monitoring
from store.outgoing.delivery_tables import Destination
from tests.reading import read_batch
from tests.web.asking import Asker, png
from tests.web.test_api import problem
from web.factory import create_app
from web.operations.health import create_health_app


def add_worker(name: str, *queues: str, slots: int = 2) -> None:
    with session_scope() as session:
        session.merge(Worker(name=name, queues=list(queues), slots=slots, version="0", seen_at=func.now()))


def recovered() -> None:
    with session_scope() as session:
        monitoring.record_success(session, monitoring.Step.RECOVER)


def test_alive(app: Any) -> None:
    assert app.test_client().get("/healthz").json == {"status": "ok"}


def test_strangers_learn_only_that_it_lives(app: Any, health: Any, ask: Asker) -> None:
    client = app.test_client()
    for path in ("/readyz", "/metrics"):
        assert client.get(path).status_code == 404
        assert client.get(path, headers=ask.headers).status_code == 404
        assert health.get(path).status_code in {200, 503}
    assert health.get("/healthz").json == {"status": "ok"}
    assert health.get("/api/v1/batches").status_code == health.get("/sign-in").status_code == 404


def test_ready_only_with_every_kind_of_worker(health: Any) -> None:
    client = health
    recovered()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    every = {"cpu", "gpu", "report", "notices", "exports"}
    assert set(answer.json["missing"]) == {f"worker-{queue}" for queue in every}
    add_worker("one", "cpu", "report", "notices", "exports")
    assert set(client.get("/readyz").json["missing"]) == {"worker-gpu"}
    add_worker("two", "gpu")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json) == (200, {"status": "ready", "missing": {}})
    with session_scope() as session:
        session.execute(text("UPDATE workers SET seen_at = now() - interval '31 s' WHERE name = 'one'"))
    assert set(client.get("/readyz").json["missing"]) == {f"worker-{queue}" for queue in every - {"gpu"}}


def test_deliveries_are_missed_only_where_results_go_to_an_archive(health: Any) -> None:
    recovered()
    add_worker("one", "cpu", "gpu", "report", "notices", "exports")
    assert health.get("/readyz").status_code == 200
    with session_scope() as session:
        site = session.scalars(select(Site.id)).one()
        archive = Destination(site_id=site, name="archive", protocol="dimse", address="a:104", kinds=["sr"])
        session.add(archive)
    assert set(health.get("/readyz").json["missing"]) == {"worker-deliveries"}
    add_worker("two", "deliveries")
    assert health.get("/readyz").status_code == 200


def test_ready_only_while_recovery_goes_through(health: Any) -> None:
    client = health
    add_worker("one", "cpu", "gpu", "report", "notices", "exports")
    assert client.get("/readyz").json["missing"] == {"recovery": "never went through"}
    recovered()
    assert client.get("/readyz").status_code == 200
    with session_scope() as session:
        session.execute(text("UPDATE maintenance SET succeeded_at = now() - interval '90 s'"))
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json["missing"]["recovery"].startswith("last went through 9")
    assert gauges(client)['fractureai_maintenance_age_seconds{step="recover"}'] >= 90
    with session_scope() as session:
        monitoring.record_failure(session, monitoring.Step.RECOVER, "LockNotAvailable (55P03)")
    assert client.get("/readyz").status_code == 503, "a failure is not a success"


def gauges(client: Any) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_an_alarm_can_be_set_on_each_step(health: Any) -> None:
    """One that failed, or never ran though its turn is long past, has no age that grows."""
    gauge = "fractureai_maintenance_failing"
    with session_scope() as session:
        for step in monitoring.Step:
            if step != monitoring.Step.DRAFTS:
                monitoring.record_success(session, step)
        monitoring.record_failure(session, monitoring.Step.MONITORING, "LockNotAvailable (55P03)")
        monitoring.expect_steps(session)
        never = update(Maintenance).where(Maintenance.step == monitoring.Step.DRAFTS)
        session.execute(never.values(known_since=func.now() - timedelta(minutes=31)))
    told = gauges(health)
    failing = {step for step in monitoring.Step if told[f'{gauge}{{step="{step}"}}']}
    assert failing == {monitoring.Step.DRAFTS, monitoring.Step.MONITORING}
    assert told['fractureai_unreached{kind="destination"}'] == 0


def test_metrics_follow_the_work(health: Any, ask: Asker) -> None:
    client = health
    before = gauges(client)
    assert before['fractureai_images{status="done"}'] == 0
    batch = ask.draft()
    ask.send(batch, ("a.png", png("1")), ("b.png", png("2")), ("Secret.txt", b"x"))
    ask.post(f"/batches/{batch}/submit")
    queued = gauges(client)
    assert queued['fractureai_images{status="queued"}'] == 2
    assert queued['fractureai_images{status="rejected"}'] == 1
    assert queued['fractureai_batches_active{status="queued"}'] == 1
    assert queued["fractureai_work_due"] + queued["fractureai_work_in_flight"] == 1
    add_worker("one", "gpu", slots=3)
    read_batch(batch)
    done = gauges(client)
    assert done['fractureai_images{status="done"}'] == 2
    assert done['fractureai_worker_slots{queue="gpu"}'] == 3
    assert done["fractureai_work_due"] == 0
    assert "Secret" not in client.get("/metrics").text


@pytest.fixture
def without_servers(settings_env: pytest.MonkeyPatch) -> Any:
    """An application whose database and broker do not listen."""
    settings_env.setenv("FRACTUREAI_DATABASE_URL", f"postgresql://127.0.0.1:{free_port()}/nothing")
    settings_env.setenv("FRACTUREAI_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    get_settings.cache_clear()
    settings_env.setattr(session_module, "_engine", None)
    return create_app()


def test_an_absent_database_is_told(without_servers: Any) -> None:
    client = without_servers.test_client()
    answer = client.get("/api/v1/batches", headers={"Authorization": "Bearer fai_x"})
    problem(answer, 503, "database_unavailable")
    assert answer.headers["Retry-After"] == "10"
    client.set_cookie("fractureai_session", "x")
    page = client.get("/batches")
    assert page.status_code == 503
    assert "database does not answer" in page.text
    assert client.get("/healthz").status_code == 200
    ready = create_health_app(get_settings()).test_client().get("/readyz")
    assert ready.status_code == 503
    assert set(ready.json["missing"]) == {"database", "broker"}
    session_module._engine = None


def test_the_web_process_loads_no_image_library_and_no_network() -> None:
    code = (
        "import sys; import web.factory; "
        "heavy = {'cv2', 'numpy', 'tensorflow', 'keras', 'openvino', 'pydicom', 'weasyprint', 'gdcm', "
        "'sklearn'}; "
        "ours = {'models', 'worker', 'training', 'phantoms', 'cli'}; "
        "print(sorted((heavy | ours) & {name.partition('.')[0] for name in sys.modules}), "
        "sorted(name for name in sys.modules if name.startswith('pipeline.')))"
    )
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    ).stdout
    # types, the rule and figures of evidence, and the names of DICOM elements
    words = ["dicom", "dicom.elements", "earned", "evidence", "types"]
    assert out.strip() == f"[] {[f'pipeline.{word}' for word in words]}"


def test_the_webs_own_readiness_asks_for_the_database_alone(
    health: Any, settings_env: pytest.MonkeyPatch
) -> None:
    assert health.get("/readyz").status_code == 503, "there is no worker"
    assert health.get("/readyz/web").status_code == 200
    # a kubelet asks by the address of the pod
    assert health.get("/readyz/web", headers={"Host": "10.2.0.7:8001"}).status_code == 200
    session_module.get_engine().dispose()
    settings_env.setenv("FRACTUREAI_DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/none")
    get_settings.cache_clear()
    settings_env.setattr(session_module, "_engine", None)
    answer = health.get("/readyz/web")
    assert (answer.status_code, answer.json["missing"]) == (503, {"database": "OperationalError"})
    assert health.get("/healthz").status_code == 200
