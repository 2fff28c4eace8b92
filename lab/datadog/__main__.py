"""`make dashboard`: the bundled dashboard, drawn from series that are recorded over real check runs.

By default the server is the demo's own; `PREFECT_URL` names an existing one. `SECONDS` is for how long, `RECORDING` a
file of an earlier recording to draw again, `PICTURES=0` leaves out the pictures, which want Chromium.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from lab.command import INTERRUPTED, INTERRUPTED_CODE, begin_command
from lab.errors import LabError

from .dashboards import Dashboard, Picture, draw, problems_of, unknown_in
from .film import film_demo, film_existing
from .logs import Entry, Pipeline, joined
from .monitors import Monitor, State, load_monitors
from .page import page
from .queries import QueryError
from .screenshots import photograph
from .series import Recording

INTEGRATION = Path(__file__).parents[2] / "prefect"
ASSETS = INTEGRATION / "assets"
IMAGES = INTEGRATION / "images"
OUTPUT = INTEGRATION.parent / "dist"
MONITORS = ASSETS / "monitors"
DASHBOARD = ASSETS / "dashboards" / "prefect_overview.json"
DEMO_SECONDS = 420.0
EXISTING_SECONDS = 300.0
EXISTING_INTERVAL_SECONDS = 15.0
WIDTHS = (1280, 2560)
THEMES = ("light", "dark")


def main() -> int:
    """Draw, and return the exit code: 1 after the reasons on stderr where something is wrong with the dashboard."""
    begin_command()
    try:
        problems = make_dashboard(os.environ)
    except (LabError, QueryError) as error:
        problems = [str(error)]
    except KeyboardInterrupt:
        _say(INTERRUPTED)
        return INTERRUPTED_CODE
    for problem in problems:
        _say(problem)
    return 1 if problems else 0


def make_dashboard(environment: Mapping[str, str]) -> list[str]:
    """Record, draw and photograph; returns what is wrong, e.g. a widget that has no data."""
    dashboard, monitors = Dashboard.load(DASHBOARD), load_monitors(MONITORS)
    problems = problems_of(dashboard)
    for monitor in monitors.values():
        problems += [f"{monitor.title}: {problem}" for problem in unknown_in(monitor.expression)]
    if problems:
        return problems
    OUTPUT.mkdir(exist_ok=True)
    recording = _recording(environment)
    recording.save(OUTPUT / "recording.json.gz")
    pictures = draw(dashboard, recording)
    states = {monitor.title: worst_state(monitor, recording) for monitor in monitors.values()}
    caption = f"{len(recording.runs)} check runs, every {recording.interval_seconds:g} s"
    target = OUTPUT / "dashboard.html"
    html = page(dashboard, pictures, states, recording.events, entries_of(recording), caption)
    target.write_text(html, encoding="utf-8")
    _say(f"Drawn: {target}, {target.stat().st_size / 1e6:.1f} MB")
    problems = empty_in(pictures)
    _say(f"{len(pictures)} widgets with queries, {len(problems)} of them empty; {len(states)} monitors")
    if environment.get("PICTURES") != "0":
        problems += _photograph(target, OUTPUT if "PREFECT_URL" in environment else IMAGES)
    return problems


def empty_in(pictures: Mapping[int, Picture]) -> list[str]:
    """The widgets that show nothing, and why."""
    return [f"{picture.widget.title}: {picture.problem}" for picture in pictures.values() if picture.problem]


def worst_state(monitor: Monitor, recording: Recording) -> State:
    """The worst state of a monitor's groups at the end of the recording."""
    order = [State.ALERT, State.WARN, State.NO_DATA, State.OK]
    states: set[State] = set()
    for _, found in monitor.history(recording):
        states = set(found.values())
    return min(states, key=order.index, default=State.OK)


def entries_of(recording: Recording) -> list[Entry]:
    """The recorded log lines as the pipeline leaves them."""
    pipeline, pattern = Pipeline.load(ASSETS / "logs" / "prefect.yaml"), multi_line_pattern()
    services = dict.fromkeys(service for service, _ in recording.logs)
    return [
        pipeline.process(text, service)
        for service in services
        for text in joined((line for found, line in recording.logs if found == service), pattern)
    ]


def multi_line_pattern() -> str:
    """The pattern of the `multi_line` rule in the example configuration."""
    spec = yaml.safe_load((ASSETS / "configuration" / "spec.yaml").read_text(encoding="utf-8"))
    section = next(part for part in spec["files"][0]["options"] if part.get("template") == "logs")
    return str(section["example"][0]["log_processing_rules"][0]["pattern"])


def _recording(environment: Mapping[str, str]) -> Recording:
    if path := environment.get("RECORDING"):
        return Recording.load(Path(path))
    seconds = environment.get("SECONDS")
    if url := environment.get("PREFECT_URL"):
        _say(f"Recording check runs of {url} ...")
        return film_existing(url, float(seconds or EXISTING_SECONDS), EXISTING_INTERVAL_SECONDS)
    length = float(seconds or DEMO_SECONDS)
    _say(f"Recording check runs of the demo for {length / 60:.0f} minutes ...")
    return film_demo(length, _say)


def _photograph(target: Path, folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    problems = []
    for width in WIDTHS:
        for theme in THEMES:
            picture = folder / f"prefect_overview_{width}_{theme}.png"
            cut_off = photograph(target, width, theme, picture)
            problems += [f"At {width} pixels, {theme}, something is cut off in {text}" for text in cut_off]
            _say(f"Photographed: {picture}, {picture.stat().st_size / 1000:.0f} kB")
    return problems


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
