"""The text that Prometheus reads, and that rules and dashboard ask for figures that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from icecore.api import metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "contrib" / "prometheus"
PROMTOOL = ROOT / ".tools" / "prometheus" / "usr" / "bin" / "promtool"
CLUSTER = {
    "cluster": 'or"ders\n',
    "cluster_id": "pc-1",
    "up": 1,
    "size_bytes": 5,
    "newest_at": 1_700_000_000,
    "newest_size_bytes": 4,
    "lose_now_s": 60,
    "verified_at": None,
    "overdue_s": 0,
    "drill_overdue_s": 0,
    "image_bytes": 0,
}
FIGURES = {
    "clusters": [CLUSTER],
    "backups": [{"cluster_id": "pc-1", "mode": "Manual", "count": 2}],
    "jobs": [{"kind": "backup", "state": "running", "count": 1}],
    "failed": [{"kind": "backup", "code": "EngineFailed", "count": 3}],
    "repository": [{"stored_bytes": 1, "logical_bytes": 2, "free_bytes": 3}],
}


def names(text: str) -> set[str]:
    return set(re.findall(r"\bicecore_[a-z_]+", text))


def test_a_scrape_says_each_figure_once_and_escapes_names():
    body, kind = metrics.rendered(FIGURES)
    text = body.decode()
    assert kind.startswith("text/plain")
    assert r'icecore_lose_now_seconds{cluster="or\"ders\n",cluster_id="pc-1"} 60.0' in text
    assert 'icecore_jobs_failed_total{code="EngineFailed",kind="backup"} 3.0' in text
    assert "icecore_backup_verified_timestamp_seconds{" not in text  # never verified: nothing is said, not zero
    assert text.count("# TYPE icecore_jobs_failed_total counter") == 1


def test_rules_dashboard_and_page_ask_for_what_there_is():
    known = names(metrics.rendered(FIGURES)[0].decode()) | {"icecore_backup_verified_timestamp_seconds"}
    dashboard = json.loads((ROOT / "contrib" / "grafana" / "icecore.json").read_text(encoding="utf-8"))
    asked = names(" ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]))
    assert asked and asked <= known
    assert names((RULES / "icecore.rules.yml").read_text(encoding="utf-8")) <= known
    assert known <= names((ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")) | {
        "icecore_repository_logical_bytes",
        "icecore_repository_free_bytes",
    }


@pytest.mark.parametrize(
    "command", [("check", "rules", "icecore.rules.yml"), ("test", "rules", "icecore.rules.test.yml")]
)
def test_prometheus_own_tool_accepts_the_rules_and_they_fire_when_they_should(command):
    program = PROMTOOL if PROMTOOL.exists() else shutil.which("promtool")
    assert program, "scripts/setup_promtool.sh fetches it"
    done = subprocess.run([program, *command], cwd=RULES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
