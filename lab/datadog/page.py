"""A dashboard with its pictures as one HTML page that needs nothing else: light and dark, narrow and wide screens.

Curves are drawn by plotly, all else is HTML. The grid is Datadog's: twelve columns, and where the screen is wide,
groups side by side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from .dashboards import Dashboard, Line, Picture, Row, Widget, WidgetGroup
from .logs import Entry
from .monitors import State

PAGE = Path(__file__).with_name("page.html")
COLUMNS = 12
UNIT_PIXELS = 78
MOST_IN_LEGEND = 6
# Of a stream, which scrolls in Datadog, so many lines as fit.
MOST_IN_STREAM = 15
# A time axis shorter than this shows seconds.
SHORT_SECONDS = 240.0

# Of the palettes that the dashboard names, in the order in which lines take them.
PALETTES: dict[str, tuple[str, ...]] = {
    "dog_classic": ("#3598ec", "#7b5cd6", "#22b8a6", "#f0a020", "#e4577b", "#8a9bb0", "#1f6fb5", "#b57edc", "#6cc04a"),
    "green": ("#2fa866",),
    "blue": ("#3598ec",),
    "red": ("#e0413e",),
    "purple": ("#7b3fb8",),
    "orange": ("#f28c28",),
    "yellow": ("#e8b923",),
    "grey": ("#8a9bb0",),
    "warm": ("#e0632f",),
}
GROUP_COLORS = {
    "vivid_blue": "#2472d9",
    "blue": "#5d9cec",
    "green": "#3fae72",
    "vivid_orange": "#e8762d",
    "purple": "#8566c9",
    "pink": "#d36ba6",
    "gray": "#75818f",
}
CELLS = {"white_on_green": "good", "white_on_yellow": "warn", "white_on_red": "bad"}
TIME_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
MARKDOWN_LINK = re.compile(r"\[([^]]+)\]\(([^)]+)\)")
STATES = {State.ALERT: "bad", State.WARN: "warn", State.NO_DATA: "none", State.OK: "good"}


def page(
    dashboard: Dashboard,
    pictures: Mapping[int, Picture],
    monitors: Mapping[str, State],
    events: Sequence[Mapping[str, Any]],
    logs: Sequence[Entry],
    caption: str,
) -> str:
    """The page. `monitors` are the states of the monitors by title, the worst of their groups."""
    streams = {"event_stream": list(_event_rows(events)), "logs_stream": list(_log_rows(logs))}
    blocks, heights = _blocks(dashboard.groups)
    groups = "\n".join(
        _group(group, place, pictures, monitors, streams) for group, place in zip(dashboard.groups, blocks, strict=True)
    )
    variables = "".join(
        f"<span class=variable><b>${escape(variable['name'])}</b> {escape(variable['default'])}</span>"
        for variable in dashboard.document["template_variables"]
    )
    filled = {
        "title": escape(dashboard.document["title"]),
        "variables": variables,
        "caption": escape(caption),
        "groups": groups,
        "narrow": str(heights[0]),
        "wide": str(heights[1]),
        "plotly": get_plotlyjs(),
    }
    template = PAGE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


def _blocks(groups: Sequence[WidgetGroup]) -> tuple[list[str], tuple[int, int]]:
    """The place of each group as CSS variables, and the height of the board: one column, and two on wide screens."""
    ends = [0, 0]
    tops: dict[int, tuple[int, int]] = {}
    places = []
    for group in groups:
        top = group.layout["y"]
        if top not in tops:
            column = 0 if ends[0] <= ends[1] else 1
            tops[top] = column, ends[column]
            ends[column] += max(other.layout["height"] for other in groups if other.layout["y"] == top)
        column, wide_top = tops[top]
        x, width = group.layout["x"] / COLUMNS, group.layout["width"] / COLUMNS
        places.append(
            f"--x:{x:.4f};--w:{width:.4f};--y:{top};--h:{group.layout['height']};"
            f"--wx:{(column + x) / 2:.4f};--ww:{width / 2:.4f};--wy:{wide_top}"
        )
    narrow = max(group.layout["y"] + group.layout["height"] for group in groups)
    return places, (narrow, max(ends))


def _group(
    group: WidgetGroup,
    place: str,
    pictures: Mapping[int, Picture],
    monitors: Mapping[str, State],
    streams: Mapping[str, Sequence[str]],
) -> str:
    columns = group.layout["width"]
    cells = []
    for widget in group.widgets:
        layout = widget.layout
        where = (
            f"--x:{layout['x'] / columns:.4f};--w:{layout['width'] / columns:.4f};"
            f"--y:{layout['y']};--h:{layout['height']}"
        )
        cells.append(_widget(widget, where, pictures.get(widget.id), monitors, streams))
    color = GROUP_COLORS[group.color]
    return (
        f'<section class=group style="{place};--color:{color}"><h2>{escape(group.title)}</h2>'
        f"<div class=cells>{''.join(cells)}</div></section>"
    )


def _widget(
    widget: Widget,
    where: str,
    picture: Picture | None,
    monitors: Mapping[str, State],
    streams: Mapping[str, Sequence[str]],
) -> str:
    title, kind = escape(str(widget.definition.get("title", ""))), widget.type
    if kind == "note":
        content, title = markdown(widget.definition["content"]), ""
    elif kind == "manage_status":
        content = _monitors(monitors)
    elif kind == "list_stream":
        rows = streams[widget.definition["requests"][0]["query"]["data_source"]]
        content = f"<div class=stream>{''.join(rows)}</div>" if rows else "<p class=empty>Nothing of this kind.</p>"
    elif picture is None or picture.problem:
        content = f"<p class=empty>{escape(picture.problem if picture else 'not drawn')}</p>"
    elif kind == "toplist":
        content = _top_list(picture)
    elif kind == "query_value":
        content = _value(picture)
    else:
        content = _curves(picture)
    cell = CELLS.get((picture.palette if picture else None) or "", "")
    heading = f"<h3>{title}</h3>" if title else ""
    return (
        f'<article class="widget {kind} {cell}" data-name="{escape(widget.title)}" style="{where}">'
        f"{heading}<div class=body>{content}</div></article>"
    )


def _monitors(states: Mapping[str, State]) -> str:
    counts = "".join(
        f'<span class="count {STATES[state]}"><b>{number}</b> {escape(state)}</span>'
        for state in STATES
        if (number := sum(1 for found in states.values() if found == state))
    )
    order = list(STATES)
    ranked = sorted(states.items(), key=lambda item: (order.index(item[1]), item[0]))
    rows = "".join(
        f'<li><span class="state {STATES[state]}">{escape(state)}</span> {escape(title)}</li>'
        for title, state in ranked
    )
    return f"<div class=counts>{counts}</div><ul class=monitors>{rows}</ul>"


def _value(picture: Picture) -> str:
    number, unit = formatted(picture.value or 0.0, picture.unit, picture.widget.definition.get("precision", 2))
    figure = go.Figure()
    for line in picture.lines:
        x, y = _axes(line)
        figure.add_scatter(x=x, y=y, mode="lines", fill="tozeroy", line={"width": 1}, meta="background")
    return f"{_plot(figure, 'background')}<div class=number>{number}<small>{escape(unit)}</small></div>"


def _top_list(picture: Picture) -> str:
    most = max((abs(row.value) for row in picture.rows), default=0.0) or 1.0
    return f"<ol class=top>{''.join(_top_row(row, most, picture.unit) for row in picture.rows)}</ol>"


def _top_row(row: Row, most: float, unit: str) -> str:
    number, suffix = formatted(row.value, unit)
    kind = CELLS.get(row.palette or "", "plain")
    return (
        f'<li class="{kind}"><span class=bar style="width:{100 * abs(row.value) / most:.1f}%"></span>'
        f"<span class=amount>{number}<small>{escape(suffix)}</small></span>"
        f"<span class=label>{escape(row.label)}</span></li>"
    )


def _curves(picture: Picture) -> str:
    figure = go.Figure()
    legend = []
    colored = list(_colored(picture.lines))
    for line, color in colored:
        x, y = _axes(line)
        name = line.label
        if line.display == "bars":
            figure.add_bar(x=x, y=y, name=name, marker={"color": color, "line": {"width": 0}})
        elif line.display == "area":
            figure.add_scatter(x=x, y=y, name=name, mode="lines", stackgroup="one", line={"color": color, "width": 1.2})
        else:
            mode = "lines+markers" if len(y) < 3 else "lines"
            figure.add_scatter(x=x, y=y, name=name, mode=mode, connectgaps=True, line={"color": color, "width": 1.8})
    definition = picture.widget.definition
    for marker in definition.get("markers", ()):
        figure.add_hline(
            y=float(marker["value"].partition("=")[2]), line={"color": "#e0413e", "width": 1, "dash": "dash"}
        )
    axis = definition.get("yaxis", {})
    if "min" in axis:
        figure.update_yaxes(range=[float(axis["min"]), float(axis["max"])])
    else:
        figure.update_yaxes(rangemode="tozero")
    times = [at for line in picture.lines for at, _ in line.points]
    figure.update_xaxes(tickformat="%H:%M:%S" if max(times) - min(times) < SHORT_SECONDS else "%H:%M")
    unit = picture.lines[0].unit
    figure.update_layout(barmode="stack")
    figure.update_yaxes(ticksuffix={"percent": "%", "second": " s"}.get(unit, ""))
    ranked = sorted(colored, key=lambda item: -math.fsum(value for _, value in item[0].points))
    for line, color in ranked[:MOST_IN_LEGEND]:
        last = " ".join(formatted(line.points[-1][1], line.unit))
        legend.append(f'<span><i style="background:{color}"></i>{escape(line.label)} <b>{escape(last)}</b></span>')
    if len(ranked) > MOST_IN_LEGEND:
        legend.append(f"<span>and {len(ranked) - MOST_IN_LEGEND} more</span>")
    return f"{_plot(figure, 'curves')}<div class=legend>{''.join(legend)}</div>"


def _colored(lines: Sequence[Line]) -> Iterator[tuple[Line, str]]:
    """Lines with a palette of their own take its color, all others one after the other."""
    classic = PALETTES["dog_classic"]
    for number, line in enumerate(lines):
        yield line, (PALETTES[line.palette][0] if line.palette else classic[number % len(classic)])


def _axes(line: Line) -> tuple[list[str], list[float]]:
    times = [datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") for at, _ in line.points]
    return times, [value for _, value in line.points]


def _plot(figure: go.Figure, kind: str) -> str:
    figure.update_layout(template=None)
    return f"<div class=plot data-kind={kind} data-figure='{escape(figure.to_json(), quote=True)}'></div>"


def formatted(value: float, unit: str, precision: int = 2) -> tuple[str, str]:
    """A number in the unit that fits it, and that unit, as Datadog scales them."""
    if unit == "second":
        for factor, name in TIME_UNITS:
            if abs(value) >= factor:
                return _short(value / factor, precision or 1), name
        return _short(value * 1000, 0), "ms"
    suffix = {"percent": "%", "run": "runs", "worker": "workers"}.get(unit, unit)
    if suffix.endswith("s") and value == 1:
        suffix = suffix[:-1]
    return _short(value, precision), suffix


def _short(value: float, precision: int) -> str:
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:.0f}"
    if abs(value) >= 1e3:
        return f"{value / 1e3:.1f}k" if abs(value) < 1e6 else f"{value / 1e6:.1f}M"
    return f"{value:.{precision}f}"


def markdown(text: str) -> str:
    """The little Markdown that notes use: headings, bold, code, links and lists."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith("- "):
            items = "".join(f"<li>{_inline(line.removeprefix('- '))}</li>" for line in block.split("\n"))
            blocks.append(f"<ul>{items}</ul>")
        elif block.startswith("# "):
            blocks.append(f"<h1>{_inline(block.removeprefix('# '))}</h1>")
        else:
            blocks.append(f"<p>{_inline(block)}</p>")
    return "".join(blocks)


def _inline(text: str) -> str:
    text = escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)
    return MARKDOWN_LINK.sub(r'<a href="\2">\1</a>', text)


def _event_rows(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for event in sorted(events, key=lambda one: -float(one["timestamp"]))[:MOST_IN_STREAM]:
        at = datetime.fromtimestamp(float(event["timestamp"]), UTC).strftime("%H:%M:%S")
        kind = {"error": "bad", "warning": "warn", "success": "good"}.get(str(event["alert_type"]), "none")
        yield f'<p><i class="{kind}"></i><time>{at}</time> {escape(str(event["msg_title"]))}</p>'


def _log_rows(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries[-MOST_IN_STREAM:][::-1]:
        kind = {"error": "bad", "critical": "bad", "warning": "warn"}.get(entry.status, "none")
        text = entry.message.split("\n")[0]
        yield (
            f'<p><i class="{kind}"></i><time>{escape(entry.time or "")}</time> '
            f"<em>{escape(entry.service)}</em> {escape(text)}</p>"
        )
