"""The Helm chart: rendered by Helm's own engine, valid, with no more rights than the restricted standard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from cli.supervise import URGENT_QUEUES
from settings import PREFIX, VERSION, from_environ
from store.queue.dispatch import KIND_QUEUES, QUEUES
from tests.conftest import ROOT

CHART = ROOT / "deploy" / "helm" / "fractureai"
EVERY = [None, *sorted(path.name for path in (CHART / "ci").glob("*.yaml"))]
Manifest = dict[str, Any]


def rendered(values: str | None = None, **more: Any) -> list[Manifest]:
    given = yaml.safe_load((CHART / "ci" / values).read_text()) if values else {}
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render({**given, **more}, name="demo", namespace="prod")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def of_kind(manifests: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] in kinds}


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    found = of_kind(manifests, "Deployment", "Job")
    return {name: each["spec"]["template"] for name, each in found.items()}


def environment(pod: Manifest) -> dict[str, str]:
    (container,) = pod["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def test_helm_finds_no_fault() -> None:
    found = helm.lint(str(CHART))
    assert found["errors"] == []
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == VERSION


@pytest.mark.parametrize("values", EVERY)
@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_every_manifest_is_one_that_kubernetes_takes(values: str | None, version: str) -> None:
    manifests = rendered(values)
    assert len(manifests) > 15
    for each in manifests:
        if not each["apiVersion"].startswith("keda.sh/"):  # whose schema is not Kubernetes'
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("values", EVERY)
def test_pods_keep_to_the_restricted_standard(values: str | None) -> None:
    for name, pod in pods(rendered(values)).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert {"emptyDir", "projected"} >= {
            key for volume in spec["volumes"] for key in volume if key != "name"
        }
        for container in spec["containers"]:
            allowed = container["securityContext"]
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["readOnlyRootFilesystem"] is True
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_every_queue_has_a_worker_and_probes_ask_nothing_of_the_database() -> None:
    found = pods(rendered())
    workers = {name: pod for name, pod in found.items() if name.startswith("demo-worker-")}
    queues = {pod["spec"]["containers"][0]["args"][5] for pod in workers.values()}
    assert queues == {*QUEUES.values(), *KIND_QUEUES.values(), URGENT_QUEUES}
    alone = {
        name for name, pod in workers.items() if environment(pod).get("FRACTUREAI_URGENT_ONLY") == "true"
    }
    assert alone == {"demo-worker-urgent"}
    for name, pod in found.items():
        (container,) = pod["spec"]["containers"]
        if name == "demo-migration":
            continue
        probes = {kind: container[kind] for kind in ("startupProbe", "livenessProbe")}
        if name == "demo-web":
            assert {probe["httpGet"]["path"] for probe in probes.values()} == {"/healthz"}
            assert container["readinessProbe"]["httpGet"] == {"path": "/readyz/web", "port": "health"}
            assert container["lifecycle"]["preStop"]["exec"]["command"][0] == "sleep"
        else:
            assert {probe["exec"]["command"][0] for probe in probes.values()} == {"alive"}
            assert environment(pod)["FRACTUREAI_ALIVE_FILE"] == "/tmp/alive"
        assert pod["spec"]["terminationGracePeriodSeconds"] > from_environ({}).lease_seconds


@pytest.mark.parametrize("values", EVERY)
def test_settings_are_valid_and_secrets_are_files(values: str | None, tmp_path: Path) -> None:
    for name, pod in pods(rendered(values)).items():
        said = environment(pod)
        files = {
            key: value for key, value in said.items() if key.startswith(PREFIX) and key.endswith("_FILE")
        }
        files.pop("FRACTUREAI_ALIVE_FILE")
        sources = pod["spec"]["volumes"][-1]["projected"]["sources"]
        paths = {f"/secrets/{item['path']}" for source in sources for item in source["secret"]["items"]}
        assert set(files.values()) == paths
        (tmp_path / "secret").write_text("s" * 32)
        read = from_environ({**said, **dict.fromkeys(files, str(tmp_path / "secret"))})
        assert "s" * 32 in read.database_url
        assert bool(read.database_owner_url) == (name == "demo-migration"), (
            "the owner is the migration's alone"
        )
        text = yaml.safe_dump(pod)
        assert "password:" not in text
    if values == "small-values.yaml":
        assert read.smtp_port == 25
        assert read.smtp_password == "s" * 32


def test_the_migration_comes_first_and_needs_nothing_that_comes_later() -> None:
    manifests = rendered()
    weights = {
        each["kind"]: int(each["metadata"]["annotations"]["helm.sh/hook-weight"])
        for each in manifests
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    }
    assert weights == {"ServiceAccount": -5, "Job": 0}


def test_only_notices_deliveries_and_the_pages_reach_the_outside() -> None:
    manifests = rendered()
    policies = of_kind(manifests, "NetworkPolicy")
    everyone = policies["demo-inside"]["spec"]
    assert everyone["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in everyone
    assert not any("ipBlock" in peer for rule in everyone["egress"] for peer in rule.get("to", []))
    outside = {
        name
        for name, pod in pods(manifests).items()
        for policy in policies.values()
        if any("ipBlock" in peer for rule in policy["spec"]["egress"] for peer in rule["to"])
        and policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    }
    assert outside == {"demo-web", "demo-worker-notices", "demo-worker-deliveries"}
    # the proxy leads to the pages' port alone
    (ingress,) = of_kind(manifests, "Ingress").values()
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "demo-web", "port": {"name": "http"}}


def test_the_private_keys_are_files_of_the_pod_that_delivers_alone() -> None:
    assert "private-keys" not in yaml.safe_dump(rendered())
    given = {"workers": {"deliveries": {"privateKeys": {"name": "keys-of-ours"}}}}
    manifests = rendered(**given)
    for each in manifests:
        if not each["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(each, "1.37", strict=True)
    having = {name: pod for name, pod in pods(manifests).items() if "keys-of-ours" in yaml.safe_dump(pod)}
    assert having.keys() == {"demo-worker-deliveries"}
    assert environment(having["demo-worker-deliveries"])["FRACTUREAI_GATEWAY_KEYS"] == "/keys"


def test_gpu_workers_scale_from_nothing_by_what_waits() -> None:
    manifests = rendered("gpu-values.yaml")
    scaled = of_kind(manifests, "ScaledObject")
    assert set(scaled) == {"demo-worker-cpu", "demo-worker-gpu", "demo-worker-report"}
    gpu = scaled["demo-worker-gpu"]["spec"]
    assert gpu["minReplicaCount"] == 0
    assert "queue = 'gpu'" in gpu["triggers"][0]["metadata"]["query"]
    deployments = of_kind(manifests, "Deployment")
    for name in scaled:
        assert "replicas" not in deployments[name]["spec"], "or each upgrade would set it back"
        assert scaled[name]["spec"]["scaleTargetRef"]["name"] == name
    limits = deployments["demo-worker-gpu"]["spec"]["template"]["spec"]["containers"][0]["resources"][
        "limits"
    ]
    assert limits["nvidia.com/gpu"] == 1
    assert "demo-worker-score" not in deployments
    assert of_kind(rendered(), "ScaledObject") == {}
