"""A driver that does what it is told: a JSON object in each line of standard input. An answer is a line, too.

Argument: a folder for tables and for notes of what tasks have read.
"""

import json
import os
import runpy
import sys

import enrich_spark
from enrich_spark import Enrich
from pyarrow import parquet
from pyspark import InheritableThread, TaskContext
from pyspark.sql import functions as F
from session import session

folder = sys.argv[1]
spark = session(
    folder,
    spark_python_worker_reuse="true",
    spark_speculation="true",
    spark_speculation_interval="200ms",
    spark_speculation_minTaskRuntime="3s",
    spark_speculation_multiplier="1.1",
    spark_speculation_quantile="0.5",
    # Idle Python workers are killed, too, and each costs an attempt.
    spark_task_maxFailures="20",
    spark_sql_execution_arrow_maxRecordsPerBatch="100",
)


def say(**what):
    print(json.dumps(what), flush=True)


def rows(first, count, partitions):
    text = F.format_string("Row %d — «ünïcödé» and a\ttab", "id")
    return spark.range(first, first + count, 1, partitions).withColumn("text", text)


def noted(df, name):
    """The same rows; each batch that a task reads of them is a line in a file: partition, attempt, number of rows."""
    path = f"{folder}/{name}"

    def note(batches):
        task = TaskContext.get()
        for batch in batches:
            with open(path, "a") as notes:
                notes.write(f"{task.partitionId()} {task.attemptNumber()} {batch.num_rows}\n")
            yield batch

    return df.mapInArrow(note, df.schema)


def failing(df):
    """The same rows; the first attempt of each task fails behind its first forty."""

    def fail(batches):
        seen = 0
        for batch in batches:
            seen += batch.num_rows
            if TaskContext.get().attemptNumber() == 0 and seen > 40:
                raise RuntimeError("a task fails half way")
            yield batch

    return df.mapInArrow(fail, df.schema)


def enriched(urls, first, count, partitions=4, epoch=0, rows_at_once=20, repartition=None, note=None, fails=False):
    df = rows(first, count, partitions)
    df = df.repartition(repartition, "id") if repartition else df
    df = noted(df, note) if note else df
    df = Enrich(urls)(df, epoch=epoch, rows=rows_at_once, at_once=4)
    df = failing(df) if fails else df
    return [[row.id, row.answer] for row in df.select("id", "answer").collect()]


def keyed(urls, form):
    """Rows with one text, which a key tells apart, asked for twice in one epoch, in different slices: their answers."""
    path, df = f"{folder}/keyed-{form}", spark.range(0, 30, 1, 2).select(F.lit(f"The same in {form}").alias("text"))
    if form == "delta":
        tracked = "using delta tblproperties ('delta.enableRowTracking' = 'true')"
        spark.sql(f"create table delta.`{path}` (text string) {tracked}")
    df.write.format(form).mode("append").save(path)
    df, enrich = spark.read.format(form).load(path), Enrich(urls)
    key = "_metadata.row_id" if form == "delta" else ["_metadata.file_path", "_metadata.row_index"]
    return [row.answer for rows in (7, 4) for row in enrich(df, epoch=1, rows=rows, key=key).collect()]


def written(urls, table, first, count, epoch):
    """Writes an epoch twice; the number of rows that the table has then."""
    for _ in range(2):
        Enrich(urls).stream_to(rows(first, count, 2), table, epoch=epoch)
    df = spark.read.format("delta").load(table) if "/" in table else spark.table(table)
    return df.count()


TIME = "timestamp '2024-03-01 12:30:00.123456'"
ALL_TYPES = [
    "id",
    "text",
    "cast(id % 100 as byte) as tiny",
    "cast(id as short) as small",
    "cast(id as int) as middle",
    "id % 2 = 0 as flag",
    "cast(id as float) / 3 as single",
    "cast(id as double) / 3 as double",
    "cast(id / 7 as decimal(38, 18)) as exact",
    "cast(text as binary) as bytes",
    "date '2024-02-29' as day",
    f"{TIME} as time",
    "timestamp_ntz '2024-03-01 12:30:00' as wall",
    "interval '1 02:03:04' day to second as span",
    f"array({TIME}, null) as times",
    f"map('a', {TIME}, 'b', null) as named",
    f"struct(id as `x.y`, array(struct({TIME} as at)) as deep) as `a.dotted name`",
    "cast(null as string) as nothing",
    "cast(array() as array<string>) as none",
]


def of_all_types(urls, first):
    """Whether columns of all types, some of their partitions empty, come back as they were, in two time zones."""
    same = []
    for zone in ("UTC", "America/New_York"):
        spark.conf.set("spark.sql.session.timeZone", zone)
        df = rows(first, 40, 8).filter(f"id >= {first + 10}").selectExpr(*ALL_TYPES)
        out = Enrich(urls)(df, rows=4).cache()
        same.append(df.collect() == out.select(*(f"`{name}`" for name in df.columns)).collect())
        same.append(out.filter("answer is not null and _enrich is not null").count() == 30)
        same.append(out.limit(3).count() == 3 and Enrich(urls)(df.limit(0)).count() == 0)
    return same


def refused(urls, first):
    """Why DataFrames are not taken."""
    enrich, reasons = Enrich(urls), []
    wrong = [rows(first, 1, 1).drop("text"), rows(first, 1, 1).withColumn("Answer", F.lit(1))]
    for df in wrong:
        try:
            enrich(df)
        except RuntimeError as error:
            reasons.append(str(error))
    return reasons


def open_rows(urls):
    """The rows that the servers have open."""
    return sum(status["open_rows"] for status in Enrich(urls).status())


def batch_job(urls, source):
    """The batch job of the examples, which ends the session: the summaries of what it has written."""
    example, target = os.path.join(os.path.dirname(enrich_spark.__file__), "batch_job.py"), f"{folder}/summaries"
    sys.argv = [example, source, target, *urls]
    runpy.run_path(example)
    return parquet.read_table(target)["summary"].to_pylist()


CASES = (enriched, keyed, written, of_all_types, refused, open_rows, batch_job)
results, running = [], None


def run(case, arguments):
    spark.sparkContext.setJobGroup("case", case, interruptOnCancel=True)
    try:
        results.append({"result": {each.__name__: each for each in CASES}[case](**arguments)})
    except Exception as error:  # Spark's own, whatever it was.
        results.append({"error": f"{type(error).__name__}: {error}"[:3000]})


say(ready=True)
for line in sys.stdin:
    what = json.loads(line)
    if "case" in what:
        running = InheritableThread(target=run, args=(what.pop("case"), what))
        running.start()
    elif "cancel" in what:
        spark.sparkContext.cancelJobGroup("case")
    else:
        running.join()
        say(**results.pop())
spark.stop()
