"""The boards of `cluster.observability.monitoring.panels` as Grafana's JSON, by Grafana's own SDK (an extra of developers).

What it builds is committed in ``cluster/deploy/monitoring/dashboards``; `steelyard monitor` writes those files.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueTextMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh, VariableSort

from cluster.observability.monitoring.panels import Board, Panel

SOURCE = "${datasource}"
HEIGHT, WIDTH, NARROW = 8, 8, 4
"""Of a panel in Grafana's grid of 24 columns."""
_VARIABLES = {
    "run": "label_values(steelyard_run_state, run)",
    "constraint": 'label_values(steelyard_limit{run=~"$run"}, constraint)',
}


def dashboard_json(board: Board) -> str:
    """The text of ``dashboards/<uid>.json``."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["steelyard"])
        .readonly()
        .refresh("10s")
        .time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name in board.variables:
        built.with_variable(_variable(name))
    for title, panels in board.rows:
        built.with_row(dashboard.Row(title))
        for panel in panels:
            built.with_panel(_lines(panel) if panel.kind == "lines" else _number(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _variable(name: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .query(_VARIABLES[name])
        .datasource(_source())
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )


def _lines(panel: Panel) -> timeseries.Panel:
    built = timeseries.Panel().title(panel.title).unit(panel.unit).description(_about(panel)).datasource(_source())
    built.height(HEIGHT).span(WIDTH).fill_opacity(5).legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    for query in _queries(panel):
        built.with_target(query)
    return built


def _number(panel: Panel) -> stat.Panel:
    built = stat.Panel().title(panel.title).unit(panel.unit).description(_about(panel)).datasource(_source())
    mode = BigValueTextMode.NAME if panel.kind == "name" else BigValueTextMode.VALUE_AND_NAME
    built.height(HEIGHT // 2).span(NARROW).text_mode(mode)
    built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    for query in _queries(panel):
        built.with_target(query.instant())
    return built


def _queries(panel: Panel) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(chr(ord("A") + index))
        for index, query in enumerate(panel.queries)
    ]


def _about(panel: Panel) -> str:
    return " ".join(filter(None, [panel.about, f"Empty without {panel.needs}." if panel.needs else ""]))


def _source() -> DataSourceRef:
    return DataSourceRef(type_val="prometheus", uid=SOURCE)
