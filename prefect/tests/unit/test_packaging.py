"""What is shipped beside the code: manifest, metadata, configuration, documentation, wheel and requirements agree."""

from __future__ import annotations

import csv
import json
import re
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

from datadog_checks.prefect import __version__
from datadog_checks.prefect.config_models import defaults
from datadog_checks.prefect.config_models.instance import InstanceConfig
from datadog_checks.prefect.output.metrics import METADATA_COLUMNS, METRICS, NAMESPACE, metadata_rows, series_names

INTEGRATION = Path(__file__).parents[2]
PACKAGE = INTEGRATION / "datadog_checks" / "prefect"
REQUIREMENTS = INTEGRATION.parent / "requirements"

# Datadog takes no larger ones for a tile, and no longer description.
MOST_PICTURE_BYTES = 1_000_000
MOST_DESCRIPTION_CHARACTERS = 80

README = (INTEGRATION / "README.md").read_text(encoding="utf-8")
MANIFEST = json.loads((INTEGRATION / "manifest.json").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((INTEGRATION / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SPEC = yaml.safe_load((INTEGRATION / "assets" / "configuration" / "spec.yaml").read_text(encoding="utf-8"))


def texts(value: object) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def own_options() -> list[dict[str, Any]]:
    """The instance's options that the specification declares itself, without those of templates."""
    sections = SPEC["files"][0]["options"]
    instances = next(section for section in sections if section["template"] == "instances")
    return [option for option in instances["options"] if "name" in option]


def option_table() -> dict[str, str]:
    """The defaults in the README's table of options, by name."""
    table = README.partition("| Option | Default |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE))


def read_instances(name: str) -> list[Mapping[str, Any]]:
    config = yaml.safe_load((PACKAGE / "data" / name).read_text(encoding="utf-8"))
    instances: list[Mapping[str, Any]] = config["instances"]
    return instances


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    directory = tmp_path_factory.mktemp("wheel")
    [wheel] = WheelBuilder(str(INTEGRATION)).build(directory=str(directory), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_manifest_lists_every_asset_and_none_that_is_not_there() -> None:
    assets = {
        path.relative_to(INTEGRATION).as_posix() for path in (INTEGRATION / "assets").rglob("*") if path.is_file()
    }
    listed = {text for text in texts(MANIFEST) if text.startswith("assets/")}
    # The log pipeline goes by the name of its source.
    source = MANIFEST["assets"]["logs"]["source"]
    listed |= {f"assets/logs/{source}.yaml", f"assets/logs/{source}_tests.yaml"}
    assert listed == assets


def test_the_manifest_shows_every_picture_and_calls_assets_by_their_titles() -> None:
    pictures = {f"images/{path.name}" for path in (INTEGRATION / "images").iterdir()}
    assert {medium["image_url"] for medium in MANIFEST["tile"]["media"]} == pictures
    assert all((INTEGRATION / picture).stat().st_size < MOST_PICTURE_BYTES for picture in pictures)
    for kind, key in (("dashboards", "title"), ("monitors", "title"), ("saved_views", "name")):
        for title, file in MANIFEST["assets"][kind].items():
            assert json.loads((INTEGRATION / file).read_text(encoding="utf-8"))[key] == title


def test_the_tile_has_a_short_description() -> None:
    assert len(MANIFEST["tile"]["description"]) <= MOST_DESCRIPTION_CHARACTERS


def test_the_readme_lists_every_monitor() -> None:
    table = README.partition("| Monitor | Alerts when |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| (Prefect .+?) \|", table, re.MULTILINE)) == set(MANIFEST["assets"]["monitors"])


def test_the_readme_names_every_facet_of_the_log_pipeline() -> None:
    pipeline = yaml.safe_load((INTEGRATION / "assets" / "logs" / "prefect.yaml").read_text(encoding="utf-8"))
    section = README.partition("### Logs")[2].partition("### ")[0]
    assert {facet["path"] for facet in pipeline["facets"]} <= set(re.findall(r"`([\w.]+)`", section))


def test_the_manifest_names_files_that_exist() -> None:
    tile, metrics = MANIFEST["tile"], MANIFEST["assets"]["integration"]["metrics"]
    headings = set(re.findall(r"^## (.+)$", README, re.MULTILINE))
    for key in ("overview", "configuration", "support"):
        file, _, heading = tile[key].partition("#")
        assert (INTEGRATION / file).is_file()
        assert heading in headings
    assert (INTEGRATION / tile["changelog"]).is_file()
    assert (INTEGRATION / metrics["metadata_path"]).is_file()


def test_the_manifest_names_a_metric_that_is_always_submitted() -> None:
    metrics = MANIFEST["assets"]["integration"]["metrics"]
    assert metrics["prefix"] == f"{NAMESPACE}."
    assert metrics["check"] == f"{NAMESPACE}.health"


def test_metadata_csv_says_what_the_table_of_metrics_says() -> None:
    with (INTEGRATION / "metadata.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == list(METADATA_COLUMNS)
    assert rows == metadata_rows()


def test_each_series_has_a_short_name_of_its_own() -> None:
    names = [row["short_name"] for row in metadata_rows()]
    assert all(names)
    assert len(names) == len(set(names))


def test_metadata_csv_lists_each_series_of_each_metric_once() -> None:
    names = [row["metric_name"] for row in metadata_rows()]
    assert sorted(names) == sorted(name for metric in METRICS for name in series_names(metric))
    assert len(names) == len(set(names))


def test_the_wheel_holds_the_whole_package(wheel_files: set[str]) -> None:
    sources = {
        path.relative_to(INTEGRATION).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"datadog_checks/prefect/data/conf.yaml.example", "datadog_checks/prefect/data/auto_conf.yaml"} <= sources
    assert "datadog_checks/prefect/config_models/instance.py" in sources
    assert sources <= wheel_files


def test_the_wheel_holds_nothing_but_the_package_and_its_metadata(wheel_files: set[str]) -> None:
    information = f"datadog_prefect-{__version__}.dist-info"
    others = {name for name in wheel_files if not name.startswith("datadog_checks/prefect/")}
    assert others == {f"{information}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    assert not [name for name in wheel_files if "test" in name or name.endswith(".pyc")]


def test_the_readme_lists_every_option_with_its_default() -> None:
    expected = {}
    for option in own_options():
        default = getattr(defaults, f"instance_{option['name']}", None)
        expected[option["name"]] = "required" if option.get("required") else default and default()
    documented = option_table()
    assert documented.keys() == expected.keys()
    for name, default in expected.items():
        if default is not None:
            assert documented[name].strip("`") == str(default).lower()


def test_every_option_of_the_specification_is_in_the_example_configuration() -> None:
    example = (PACKAGE / "data" / "conf.yaml.example").read_text(encoding="utf-8")
    for option in own_options():
        assert f"## @param {option['name']} - " in example


def test_the_shipped_configuration_is_valid_as_it_is() -> None:
    [instance] = read_instances("conf.yaml.example")
    InstanceConfig.model_validate(instance, context={"configured_fields": frozenset(instance)})


def test_the_examples_in_the_specification_are_valid() -> None:
    examples = {option["name"]: option["value"]["example"] for option in own_options()}
    # Of the credentials only one can be set.
    for excluded in ("auth_string", "api_key"):
        instance = {name: example for name, example in examples.items() if name != excluded}
        InstanceConfig.model_validate(instance, context={"configured_fields": frozenset(instance)})


def test_the_changelog_begins_with_the_current_version() -> None:
    changelog = (INTEGRATION / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+) / \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert versions[0] == __version__


def test_the_oldest_base_that_is_declared_is_the_one_that_is_tested() -> None:
    [declared] = [text for text in PROJECT["dependencies"] if text.startswith("datadog-checks-base")]
    tested = (REQUIREMENTS / "oldest.txt").read_text(encoding="utf-8").splitlines()
    assert declared.replace(">=", "==") in tested
    assert declared.partition(">=")[2] in README


@pytest.mark.parametrize("file", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda file: file.name)
def test_requirements_are_pinned_and_name_no_registry(file: Path) -> None:
    for line in file.read_text(encoding="utf-8").splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.]+", line), line
