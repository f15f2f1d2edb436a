"""The chart's README says what its values are."""

from __future__ import annotations

import json

from tests.helm.chart_readme import described_values, with_table
from tests.helm.rendering import CHART


def test_the_table_is_the_one_made_from_the_values() -> None:
    readme = (CHART / "README.md").read_text()
    assert readme == with_table(readme, (CHART / "values.yaml").read_text()), (
        "python -m tests.helm.chart_readme"
    )


def test_every_value_the_schema_allows_is_in_the_table() -> None:
    named = {name.partition(".")[0] for name, _, _ in described_values((CHART / "values.yaml").read_text())}
    allowed = set(json.loads((CHART / "values.schema.json").read_text())["properties"])
    assert allowed - named == {"global", "enabled"}  # what Helm and a parent chart put there
