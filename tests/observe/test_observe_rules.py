"""The rules that come with the chart: well-formed, tested one by one, and each alert with its page in the runbook."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.harness import ROOT
from tests.observe.prometheus import RULES, promtool

TESTS = Path(__file__).parent / "rules.test.yaml"
RUNBOOK = ROOT / "docs" / "runbook.md"


@cache
def rules(kind: str) -> dict[str, dict]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


@cache
def expectations() -> list[dict]:
    return [
        expectation
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for expectation in test["promql_expr_test"]
    ]


def test_the_rules_are_well_formed():
    checked = promtool("check", "rules", str(RULES))
    assert checked.returncode == 0, checked.stdout


def test_every_rule_does_what_its_tests_say():
    tested = promtool("test", "rules", str(TESTS))
    assert tested.returncode == 0, tested.stdout


@pytest.mark.parametrize("alert", rules("alert"))
def test_an_alert_is_tested_both_firing_and_silent(alert):
    seen = set()
    for expectation in expectations():
        named = re.search(r'alertname=(~?)"([^"]+)"', expectation["expr"])
        if named and re.fullmatch(named[2], alert):
            states = " ".join(sample["labels"] for sample in expectation["exp_samples"])
            seen |= {state for state in ("pending", "firing") if state in states}
            if not expectation["exp_samples"] or "firing" not in states:
                seen.add("silent")
    assert {"firing", "silent"} <= seen


@pytest.mark.parametrize("record", rules("record"))
def test_a_recorded_series_is_tested(record):
    assert any(record in expectation["expr"] for expectation in expectations())


def test_every_alert_has_a_section_in_the_runbook_and_a_link_to_it():
    sections = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == list(rules("alert"))
    for alert, rule in rules("alert").items():
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbook.md#{alert.lower()}")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_a_section_says_what_it_means_what_to_look_at_and_what_to_do():
    for section in re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert part in section, (section.partition("\n")[0], part)
