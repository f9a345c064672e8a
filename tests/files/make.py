"""Makes the files beside it: fastavro 1.13.1, pyarrow 26.0.1, polars 2.1.0, pandas 3.1.1, backports.zstd for zstandard."""

import datetime as dt
import decimal
import pathlib
import uuid

import fastavro
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc as ipc

here = pathlib.Path(__file__).parent
day, time = dt.date(2026, 5, 1), dt.datetime(2026, 5, 1, 8, 0, 0, 7)


def avro(name, fields, records, codec="null"):
    with open(here / name, "wb") as file:
        schema = fastavro.parse_schema({"type": "record", "name": "R", "fields": fields})
        fastavro.writer(file, schema, records, codec=codec)


def typed(kind, logical, **more):
    return {"type": kind, "logicalType": logical, **more}


ids = ([{"name": "id", "type": "long"}], [{"id": 1}, {"id": 2}])
for codec in ("deflate", "snappy", "zstandard", "bzip2"):
    avro(f"fastavro_{codec}.avro", *ids, codec)
avro(
    "fastavro.avro",
    [
        {"name": "d", "type": typed("int", "date")},
        {"name": "ms", "type": typed("long", "timestamp-millis")},
        {"name": "us", "type": ["null", typed("long", "timestamp-micros")]},
        {"name": "local", "type": typed("long", "local-timestamp-millis")},
        {"name": "dec", "type": typed("bytes", "decimal", precision=10, scale=2)},
        {"name": "uu", "type": typed("string", "uuid")},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "m", "type": {"type": "map", "values": "int"}},
        {"name": "r", "type": {"type": "record", "name": "S", "fields": [{"name": "x", "type": ["long", "string"]}]}},
        {"name": "u", "type": ["null", "boolean", "double", "string", {"type": "array", "items": "int"}]},
    ],
    [
        {"d": day, "ms": time.replace(microsecond=0, tzinfo=dt.timezone.utc), "us": None, "local": time.replace(microsecond=0),
         "dec": decimal.Decimal("12.34"), "uu": uuid.UUID(int=5), "e": "B", "m": {"k": 1}, "r": {"x": 1}, "u": value}
        for value in (True, 1.5, "x", [1, 2], None)
    ],
)
avro("fastavro_recursive.avro", [{"name": "v", "type": "int"}, {"name": "next", "type": ["null", "R"]}], [{"v": 1, "next": None}])


def arrow(name, table, compression=None, new=ipc.new_file):
    with open(here / name, "wb") as file:
        writer = new(file, table.schema, options=ipc.IpcWriteOptions(compression=compression))
        writer.write_table(table, max_chunksize=2)
        writer.close()


table = pa.table({
    "id": [1, 2, 3],
    "dict": pa.array(["x", "y", None]).dictionary_encode(),
    "runs": pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]),
    "view": pa.array(["a", "b", "c"], pa.string_view()),
    "large": pa.array(["a", None, "c"], pa.large_string()),
    "ns": pa.array([dt.datetime(2026, 5, 1)] * 3, pa.timestamp("ns")),
    "zone": pa.array([dt.datetime(2026, 5, 1)] * 3, pa.timestamp("ms", tz="Europe/Berlin")),
    "day": [day] * 3,
    "dec": [decimal.Decimal("1.25")] * 3,
    "u64": pa.array([2**63] * 3, pa.uint64()),
    "list": pa.array([["p"], [], None], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    "views": pa.array([[1], [2], None], pa.list_view(pa.int64())),
    "inner": pa.StructArray.from_arrays([pa.array(["q", "q", "q"]).dictionary_encode()], ["q"]),
    "union": pa.UnionArray.from_dense(pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1, None]), pa.array(["x"])]),
    "span": pa.array([pa.MonthDayNano([1, 2, 0])] * 3),
})
arrow("pyarrow.arrow", table)
arrow("pyarrow_lz4.arrow", table.select(["id", "dict"]), "lz4")
arrow("pyarrow_zstd.arrows", table.select(["id", "dict"]), "zstd", ipc.new_stream)
first, second = (pa.record_batch({"id": [at], "dict": pa.array([text]).dictionary_encode()}) for at, text in ((1, "x"), (2, "y")))
with open(here / "pyarrow_replaced.arrows", "wb") as file:
    writer = ipc.new_stream(file, first.schema)
    writer.write_batch(first)
    writer.write_batch(second)
    writer.close()
feather.write_feather(table.select(["id"]), here / "pyarrow_1.feather", version=1)

frame = pl.DataFrame({
    "id": [1, 2],
    "text": ["a", None],
    "category": pl.Series(["x", "y"], dtype=pl.Categorical),
    "time": [dt.datetime(2026, 5, 1)] * 2,
    "list": [[1], [2]],
    "struct": [{"x": 1}, {"x": 2}],
})
frame.write_ipc(here / "polars.arrow")
frame.write_ipc(here / "polars_zstd.arrow", compression="zstd")
frame.write_ipc_stream(here / "polars.arrows")
frame.drop("category").write_avro(here / "polars.avro", compression="snappy")

data = pd.DataFrame({"id": [1, 2], "text": ["a", None], "price": [1.5, 2.0]})
data.to_csv(here / "pandas.csv")
data.to_csv(here / "pandas_excel.csv", sep=";", decimal=",", encoding="utf-8-sig", lineterminator="\r\n", index=False)
