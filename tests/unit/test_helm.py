"""The Helm chart: rendered by Helm's own engine, valid, with no more rights than the restricted standard."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from cli.supervise import URGENT_QUEUES
from scripts import kube_play
from settings import PREFIX, VERSION, from_environ
from store.queue.dispatch import ALL_QUEUES
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
        others = [volume for volume in spec["volumes"] if volume["name"] != "tls"]
        assert {"emptyDir", "projected"} >= {key for volume in others for key in volume if key != "name"}
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
    assert queues == {*ALL_QUEUES, URGENT_QUEUES}
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
        (projected,) = [volume for volume in pod["spec"]["volumes"] if "projected" in volume]
        sources = projected["projected"]["sources"]
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
        if any("ipBlock" in peer for rule in policy["spec"].get("egress", []) for peer in rule["to"])
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


def test_the_receiver_is_reached_by_modalities_and_reaches_archives_alone() -> None:
    assert "demo-gateway" not in of_kind(rendered(), "Deployment")
    manifests = rendered("gpu-values.yaml")
    pod = pods(manifests)["demo-gateway"]
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["fractureai", "gateway"]
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[kind]["exec"]["command"] == ["alive", "port", "11112"]
    service = of_kind(manifests, "Service")["demo-gateway"]["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["ports"] == [{"name": "dicom", "port": 11112, "targetPort": "dicom"}]
    assert service["externalTrafficPolicy"] == "Local", "callers are known by their addresses"
    policies = of_kind(manifests, "NetworkPolicy")
    its = {
        name: policy["spec"]
        for name, policy in policies.items()
        if policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    }
    assert its.keys() == {"demo-inside", "demo-gateway", "demo-archives"}
    assert its["demo-gateway"]["ingress"] == [
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "dicom"}]}
    ]
    assert {4242, 104} <= {port["port"] for rule in its["demo-archives"]["egress"] for port in rule["ports"]}
    assert "demo-gateway" in of_kind(manifests, "PodDisruptionBudget")


def test_certificates_are_files_of_who_speaks_to_archives() -> None:
    named = {"CERT": "/tls/tls.crt", "KEY": "/tls/tls.key", "CA": "/tls/ca.crt"}
    for values, expected in ((None, set()), ("gpu-values.yaml", {"demo-gateway", "demo-worker-deliveries"})):
        having = set()
        for name, pod in pods(rendered(values)).items():
            said = environment(pod)
            if {key: said.get(f"FRACTUREAI_GATEWAY_TLS_{key}") for key in named} == named:
                (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "tls"]
                assert volume["secret"]["secretName"] == "fractureai-dicom"
                mounts = {
                    each["name"]: each["mountPath"] for each in pod["spec"]["containers"][0]["volumeMounts"]
                }
                assert mounts["tls"] == "/tls"
                having.add(name)
        assert having == expected


def test_that_somebody_listens_is_seen_without_a_connection() -> None:
    alive = str(ROOT / "docker" / "alive")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        assert subprocess.run([alive, "port", port], check=False).returncode == 0
        listening.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listening.accept()
    assert subprocess.run([alive, "port", port], check=False).returncode != 0


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


def test_what_podman_plays_is_what_the_chart_says() -> None:
    """The pods keep their user, rights and addresses; only what podman does not know is written otherwise."""
    said = pods(rendered(networkPolicy={"enabled": False}))
    for template in kube_play.manifests():
        pod = kube_play.playable(template, Path("/of/the/host"))
        spec, chart = pod["spec"], said[pod["metadata"]["name"]]["spec"]
        assert spec["securityContext"] == chart["securityContext"]
        (container,), (charted,) = spec["containers"], chart["containers"]
        for part in ("args", "securityContext", "volumeMounts"):
            assert container[part] == charted[part]
        (files,) = [volume for volume in spec["volumes"] if volume["name"] == "secrets"]
        assert files["hostPath"]["path"] == "/of/the/host"
        assert "projected" not in str(spec)
        assert "ports" not in container, "podman would bind them to the host's"
