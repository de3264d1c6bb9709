"""Webhooks that should lead the service to addresses of its own network, in every form of an address."""

from __future__ import annotations

import time

from tests.attacks.target import API, Target, attack

#: Loopback, a cloud's metadata and a private network, in the ways in which they have been written.
INNER = {
    "loopback": "127.0.0.1",
    "loopback in IPv6": "[::1]",
    "mapped": "[::ffff:127.0.0.1]",
    "IPv4-compatible": "[::127.0.0.1]",
    "NAT64": "[64:ff9b::7f00:1]",
    "local NAT64": "[64:ff9b:1::7f00:1]",
    "6to4": "[2002:7f00:1::]",
    "Teredo": "[2001:0:7f00:1::80ff:fffe]",
    "ISATAP": "[2001:db8::5efe:7f00:1]",
    "one number": "2130706433",
    "hexadecimal": "0x7f.1",
    "octal": "0177.0.0.1",
    "unspecified": "0.0.0.0",
    "metadata": "169.254.169.254",
    "metadata by NAT64": "[64:ff9b::a9fe:a9fe]",
    "private": "10.0.0.1",
    "unique local": "[fd00::1]",
    "link-local": "[fe80::1]",
    "a name of loopback": "localhost",
}
PATIENCE = 120.0


@attack("webhooks to inner addresses in every form", needs_key=True, needs_workers=True)
def inner_addresses(target: Target) -> str:
    """Add each as a target and have a test sent there: it is refused at once, or never sent."""
    refused, sent = [], {}
    with target.client() as client:
        for form, host in INNER.items():
            hook = {"channel": "webhook", "address": f"https://{host}/", "events": ["batch.finished"]}
            made = client.post(f"{API}/notice-targets", json=hook)
            assert made.status_code in {201, 422}, (form, made.status_code)
            if made.status_code == 422:
                refused.append(form)
                continue
            sent[made.json()["id"]] = form
            assert client.post(made.json()["links"]["test"]).status_code == 204
        ended: dict[str, str] = {}
        until = time.monotonic() + PATIENCE
        while len(ended) < len(sent) and time.monotonic() < until:
            time.sleep(0.5)
            rows = client.get(f"{API}/notices?limit=100").json()["items"]
            ended = {
                row["target_id"]: row["error"] or ""
                for row in rows
                if row["target_id"] in sent and row["error"]
            }
            reached = [sent[row["target_id"]] for row in rows if row["target_id"] in sent and row["status"]]
            assert not reached, f"reached: {reached}"
        for target_id in sent:
            client.post(f"{API}/notice-targets/{target_id}/remove")
    assert len(ended) == len(sent), f"nothing was said of {len(sent) - len(ended)}"
    tried = {sent[id_]: error for id_, error in ended.items() if "not" not in error}
    assert not tried, tried
    return f"{len(refused)} refused as no address, {len(ended)} not sent"
