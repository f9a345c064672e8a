"""Makes a jar of Delta 4.0 for Spark 4.0 out of the one that the package jsoniq has: delta-spark of PyPI has none.

Argument: the path of the jar.
"""

import importlib.metadata
import os
import sys
import zipfile

PACKAGES = (
    "io/delta/",
    "com/databricks/spark/",
    "shadedelta/",
    "delta/",
    "org/apache/spark/internal/",
    "org/apache/spark/sql/catalyst/",
    "org/apache/spark/sql/delta/",
    "org/apache/spark/sql/execution/",
    "org/apache/spark/sql/sources/",
    "org/apache/spark/sql/stats/",
    "org/apache/spark/sql/types/",
    "org/apache/spark/sql/util/",
)
SERVICE = "META-INF/services/org.apache.spark.sql.sources.DataSourceRegister"

[whole] = [file.locate() for file in importlib.metadata.files("jsoniq") if file.suffix == ".jar"]
unfinished = sys.argv[1] + ".part"
with zipfile.ZipFile(whole) as source, zipfile.ZipFile(unfinished, "w") as jar:
    for entry in source.infolist():
        if entry.filename.startswith(PACKAGES) and not entry.is_dir():
            jar.writestr(entry, source.read(entry))
    jar.writestr(SERVICE, "org.apache.spark.sql.delta.sources.DeltaDataSource\n")
os.rename(unfinished, sys.argv[1])
