"""Reads a Delta table with DuckDB: its log by the protocol's rules for replay, and its Parquet files.

Prints one row as JSON a line. Nothing of Arrow's or Delta's Rust crates has a part in it.
"""

import json
import os
import sys
from urllib.parse import unquote

import duckdb


def live_files(table: str) -> dict[str, dict[str, str | None]]:
    """Paths of the newest version's files with their partition values."""
    log = os.path.join(table, "_delta_log")
    files: dict[str, dict[str, str | None]] = {}
    first = 0
    last_checkpoint = os.path.join(log, "_last_checkpoint")
    if os.path.exists(last_checkpoint):
        with open(last_checkpoint) as file:
            first = json.load(file)["version"]
        checkpoint = os.path.join(log, f"{first:020}.checkpoint.parquet")
        added = duckdb.sql(
            f"SELECT add.path, add.partitionValues FROM read_parquet('{checkpoint}') WHERE add.path IS NOT NULL"
        )
        for path, values in added.fetchall():
            files[path] = dict(values or {})
        first += 1
    while os.path.exists(entry := os.path.join(log, f"{first:020}.json")):
        with open(entry) as lines:
            actions = [json.loads(line) for line in lines]
        # Removes of a commit before its adds: a path is in a commit once.
        for action in actions:
            if "remove" in action:
                files.pop(action["remove"]["path"], None)
        for action in actions:
            if "add" in action:
                assert not action["add"].get("deletionVector"), "no rows are deleted in what is written here"
                files[action["add"]["path"]] = action["add"]["partitionValues"]
        first += 1
    return files


def main() -> None:
    table, partition_type = sys.argv[1], sys.argv[2]
    for path, values in live_files(table).items():
        partitions = "".join(
            f"CAST({'NULL' if value is None else repr(value)} AS {partition_type}) AS {name}, "
            for name, value in values.items()
        )
        place = os.path.join(table, unquote(path))
        # Folders may be named like partitions; only the log says what their values are.
        rows = duckdb.sql(f"SELECT {partitions}* FROM read_parquet('{place}', hive_partitioning = false)")
        names = rows.columns
        for row in rows.fetchall():
            row = dict(zip(names, row))
            kept = row.pop("_enrich")
            row |= {name: kept[name] for name in ("batch_id", "source_file", "source_row", "error_count")}
            print(json.dumps(row))


main()
