"""The Grafana dashboard of the chart: `python -m observability.dashboard` writes its JSON beside the rules.

A panel's queries are PromQL with Grafana's variables in them; `$here` stands for the pickers of job and replica.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions, VizTooltipOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode, VariableRefresh

FILE = Path(__file__).parent.parent / "helm" / "sphere-sidecar" / "files" / "dashboard.json"
HERE = 'job=~"$job",instance=~"$instance"'
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
HEIGHT = 8

Query = tuple[str, str]
"""An expression, and the legend of its series."""


def query(number: int, expression: str, legend: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .ref_id(chr(ord("A") + number))
        .datasource(SOURCE)
        .expr(expression.replace("$here", HERE))
        .legend_format(legend)
        .range()
    )


def number(
    title: str,
    expression: str,
    text: str,
    *,
    unit: str = "short",
    warn: float | None = None,
    bad: float | None = None,
) -> stat.Panel:
    """One value now, small history behind it; coloured from `warn` and `bad` on."""
    steps = [Threshold(value=None, color="green" if bad is not None else "text")]
    if warn is not None:
        steps.append(Threshold(value=warn, color="orange"))
    if bad is not None:
        steps.append(Threshold(value=bad, color="red"))
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(WIDTH // 8)
        .height(4)
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(query(0, expression, ""))
    )


def plot(title: str, text: str, *queries: Query, unit: str = "short", width: int = 8) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(HEIGHT)
        .fill_opacity(8)
        .line_width(1)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for number_, (expression, legend) in enumerate(queries):
        panel.with_target(query(number_, expression, legend))
    return panel


def quantiles(series: str, *shares: float, by: str = "", where: str = "$here") -> list[Query]:
    groups = f"le,{by}" if by else "le"
    return [
        (
            f"histogram_quantile({share}, sum by ({groups}) (rate({series}_bucket{{{where}}}[$__rate_interval])))",
            f"{share:.0%}".replace("%", " %") + (f" {{{{{by}}}}}" if by else ""),
        )
        for share in shares
    ]


OVERVIEW = (
    number(
        "Alerts firing",
        'count(ALERTS{alertname=~"SphereSidecar.*",alertstate="firing"}) or vector(0)',
        "Each has a section in the runbook.",
        bad=1,
    ),
    number(
        "Handshakes that fail",
        "max(sphere_sidecar:handshake_failures:ratio_rate5m)",
        "By our fault or that of a service behind us, within five minutes.",
        unit="percentunit",
        warn=0.006,
        bad=0.0144,
    ),
    number("Connections", "sum(sphere_sidecar_connections{$here})", "On all replicas chosen."),
    number("Rooms", "sum(sphere_sidecar_rooms{$here})", "A room on two replicas counts twice."),
    number(
        "Call set-up, half within",
        quantiles("sphere_sidecar_offer_answer_seconds", 0.5)[0][0],
        "From an offer to the first answer: people's devices included.",
        unit="s",
    ),
    number(
        "Relay, 99 % within",
        quantiles("sphere_sidecar_relay_duration_seconds", 0.99)[0][0],
        "From a frame read to it being written to every local receiver.",
        unit="s",
        warn=0.01,
        bad=0.05,
    ),
    number(
        "On old answers",
        "sum(sphere_sidecar_membership_stale{$here})",
        "Replicas whose live connections rest on answers that could not be renewed.",
        bad=1,
    ),
    number(
        "Draining",
        "sum(sphere_sidecar_draining{$here})",
        "Replicas that take nobody in any more.",
    ),
    plot(
        "Connections by replica",
        "Closing ones included.",
        ("sphere_sidecar_connections{$here}", "{{instance}}"),
    ),
    plot(
        "Signals",
        "Relayed signals as they came in and as they went out.",
        ("sum(rate(sphere_sidecar_room_messages_received_total{$here}[$__rate_interval]))", "received"),
        ("sum(rate(sphere_sidecar_room_messages_delivered_total{$here}[$__rate_interval]))", "delivered"),
        unit="ops",
    ),
    plot(
        "Handshakes",
        "Accepted, refused rightly, and failed.",
        (
            'sum(rate(sphere_sidecar_handshakes_total{$here,outcome=~"accepted"}[$__rate_interval]))',
            "accepted",
        ),
        (
            "sum(rate(sphere_sidecar_handshakes_total{$here,"
            'outcome!~"accepted|unavailable|membership_unavailable|internal_error"}[$__rate_interval]))',
            "refused",
        ),
        (
            "sum(rate(sphere_sidecar_handshakes_total{$here,"
            'outcome=~"unavailable|membership_unavailable|internal_error"}[$__rate_interval]))',
            "failed",
        ),
        unit="ops",
    ),
)

ROOMS = (
    plot(
        "Connections in the room",
        "Of the rooms chosen above, on all replicas together.",
        ('sum by (room) (sphere_sidecar_room_connections{$here,room=~"$room"})', "{{room}}"),
    ),
    plot(
        "Accounts in the room",
        "An account on two replicas counts twice.",
        ('sum by (room) (sphere_sidecar_room_participants{$here,room=~"$room"})', "{{room}}"),
    ),
    plot(
        "Signals received by type",
        "A call begins with offers and answers; candidates follow.",
        (
            'sum by (type) (rate(sphere_sidecar_room_messages_received_total{$here,room=~"$room"}[$__rate_interval]))',
            "{{type}}",
        ),
        unit="ops",
    ),
    plot(
        "Signals delivered",
        "Grows with the square of the people who talk to all.",
        (
            'sum by (room) (rate(sphere_sidecar_room_messages_delivered_total{$here,room=~"$room"}[$__rate_interval]))',
            "{{room}}",
        ),
        unit="ops",
    ),
    plot(
        "Payload",
        "Bytes of signals, in and out.",
        (
            'sum(rate(sphere_sidecar_room_bytes_received_total{$here,room=~"$room"}[$__rate_interval]))',
            "received",
        ),
        (
            'sum(rate(sphere_sidecar_room_bytes_delivered_total{$here,room=~"$room"}[$__rate_interval]))',
            "delivered",
        ),
        unit="Bps",
    ),
    plot(
        "Busiest rooms",
        "The five with the most deliveries, whatever is chosen above.",
        (
            "topk(5, sum by (room) (rate(sphere_sidecar_room_messages_delivered_total{$here}[$__rate_interval])))",
            "{{room}}",
        ),
        unit="ops",
    ),
)

HANDSHAKES = (
    plot(
        "Handshakes by outcome",
        "`websocket_expected` is also a browser's probe.",
        (
            "sum by (outcome) (rate(sphere_sidecar_handshakes_total{$here}[$__rate_interval])) > 0",
            "{{outcome}}",
        ),
        unit="ops",
    ),
    plot(
        "Handshake duration",
        "From the request's head to the answer.",
        *quantiles("sphere_sidecar_handshake_duration_seconds", 0.5, 0.99),
        unit="s",
    ),
    plot(
        "Ended connections by code",
        "1000 and 1001: the client left. 1006: lost. 1012: drained. 4xxx: our reasons.",
        ("sum by (code) (rate(sphere_sidecar_disconnects_total{$here}[$__rate_interval])) > 0", "{{code}}"),
        unit="ops",
    ),
    plot(
        "Questions to the chat service by status",
        "NOT_FOUND is an answer: no such membership.",
        (
            "sum by (method, code) (rate(sphere_sidecar_membership_requests_total{$here}[$__rate_interval])) > 0",
            "{{method}} {{code}}",
        ),
        unit="ops",
    ),
    plot(
        "Answers of the chat service",
        "Streams that stay open are not in here.",
        *quantiles(
            "sphere_sidecar_membership_request_duration_seconds",
            0.5,
            0.99,
            where='$here,method!="WatchMemberships"',
        ),
        unit="s",
    ),
    plot(
        "Where answers come from",
        "`missed` asks the chat service, `shared` waits for a question on its way.",
        (
            "sum by (result) (rate(sphere_sidecar_membership_cache_total{$here}[$__rate_interval]))",
            "{{result}}",
        ),
        unit="ops",
    ),
    plot(
        "Looks at the issuer's keys",
        "And whether the last one failed.",
        ("sum by (result) (increase(sphere_sidecar_jwks_refreshes_total{$here}[$__range]))", "{{result}}"),
        ("max(sphere_sidecar_jwks_failing{$here})", "failing"),
    ),
    plot(
        "Age of fresh tokens",
        "Below zero, or never young: a clock is off.",
        *quantiles("sphere_sidecar_token_clock_skew_seconds", 0.5, 0.9),
        unit="s",
    ),
    plot(
        "Certificates end in",
        "Those in use towards the chat service.",
        (
            "min by (certificate) (sphere_sidecar_certificate_expiry_timestamp_seconds{$here}) - time()",
            "{{certificate}}",
        ),
        unit="s",
    ),
)

BUS = (
    plot(
        "Bus connected",
        "Per replica; 0 is away.",
        ("sphere_sidecar_bus_connected{$here}", "{{instance}}"),
        width=8,
    ),
    plot(
        "Bus traffic",
        "What replicas tell each other.",
        ("sum(rate(sphere_sidecar_bus_published_total{$here}[$__rate_interval]))", "published"),
        ("sum(rate(sphere_sidecar_bus_received_total{$here}[$__rate_interval]))", "received"),
        unit="ops",
        width=8,
    ),
    plot(
        "Bus losses",
        "Dropped here, or noticed missing.",
        ("sum by (reason) (rate(sphere_sidecar_bus_dropped_total{$here}[$__rate_interval]))", "{{reason}}"),
        ("sum(rate(sphere_sidecar_bus_gaps_total{$here}[$__rate_interval]))", "gaps"),
        unit="ops",
        width=8,
    ),
)

RESOURCES = (
    plot(
        "CPU",
        "Cores in use. One replica uses one at most.",
        ("rate(process_cpu_seconds_total{$here}[$__rate_interval])", "{{instance}}"),
    ),
    plot(
        "Memory",
        "Resident.",
        ("process_resident_memory_bytes{$here}", "{{instance}}"),
        unit="bytes",
    ),
    plot(
        "Room for connections",
        "Connections of those allowed, and files of those that may be open.",
        (
            "sphere_sidecar_connections{$here} / (sphere_sidecar_connections_limit{$here} > 0)",
            "connections {{instance}}",
        ),
        ("process_open_fds{$here} / process_max_fds{$here}", "files {{instance}}"),
        unit="percentunit",
    ),
    plot(
        "Relay duration",
        "How busy the loop is, as people feel it.",
        *quantiles("sphere_sidecar_relay_duration_seconds", 0.5, 0.99, by="instance"),
        unit="s",
    ),
    plot(
        "Unsent bytes",
        "What slow peers have not read yet.",
        ("sphere_sidecar_unsent_bytes{$here}", "{{instance}}"),
        unit="bytes",
    ),
    plot(
        "Messages dropped",
        "By reason; `slow_consumer` counts connections.",
        (
            "sum by (reason) (rate(sphere_sidecar_messages_dropped_total{$here}[$__rate_interval]))",
            "{{reason}}",
        ),
        unit="ops",
    ),
    plot(
        "Heartbeat",
        "From our ping to the pong: the network of the people.",
        *quantiles("sphere_sidecar_heartbeat_rtt_seconds", 0.5, 0.99),
        unit="s",
    ),
    plot(
        "Length of connections",
        "Of those that ended.",
        *quantiles("sphere_sidecar_connection_duration_seconds", 0.1, 0.5, 0.9),
        unit="s",
    ),
    plot(
        "Refusals of one address",
        "Its share in all refusals of late.",
        ("sphere_sidecar_refusals_top_address_ratio{$here}", "{{instance}}"),
        unit="percentunit",
    ),
)


def picker(name: str, label: str, metric: str, *, multi: bool) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(include_all=True)
        .all_value(".*")
        .multi(multi)
    )


def build() -> dashboard.Dashboard:
    board = (
        dashboard.Dashboard("Sphere sidecar")
        .uid("sphere-sidecar")
        .description("WebRTC signaling: who is connected, what is relayed, what is refused and why.")
        .tags(["sphere", "sidecar"])
        .time("now-1h", "now")
        .refresh("30s")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(picker("job", "Job", "sphere_sidecar_build_info", multi=False))
        .with_variable(picker("instance", "Replica", 'sphere_sidecar_build_info{job=~"$job"}', multi=True))
        .with_variable(picker("room", "Room", f"sphere_sidecar_room_connections{{{HERE}}}", multi=True))
    )
    ids = itertools.count(1)
    for title, panels in ROWS:
        board = board.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            board = board.with_panel(panel.id(next(ids)))
    return board


ROWS = (
    ("Overview", OVERVIEW),
    ("Per room", ROOMS),
    ("Handshakes and membership", HANDSHAKES),
    ("Bus", BUS),
    ("Resources", RESOURCES),
)


def as_json() -> str:
    return (
        json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(build().build())), indent=1, sort_keys=True)
        + "\n"
    )


if __name__ == "__main__":
    FILE.write_text(as_json())
