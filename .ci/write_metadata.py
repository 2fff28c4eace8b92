"""Writes prefect/metadata.csv from the table of metrics."""

import csv
from pathlib import Path

from datadog_checks.prefect.output.metrics import METADATA_COLUMNS, metadata_rows

with Path("prefect/metadata.csv").open("w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, METADATA_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(metadata_rows())
