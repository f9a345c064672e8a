"""Writes a table of reviews with their summaries as Parquet. Arguments: the table, the folder to write, the server's URL."""

import sys

from enrich_spark import Enrich
from pyspark.sql import SparkSession

source, target, url = sys.argv[1:]

enrich = Enrich(url)
spark = SparkSession.builder.getOrCreate()
reviews = spark.read.parquet(source).where("stars < 3")
enrich(reviews).write.parquet(target)
enrich.committed(0)
spark.stop()
