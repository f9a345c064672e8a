"""Appends the reviews that come into a Delta table, with their summaries, to another. Arguments: the two and a checkpoint."""

import os
import sys

from enrich_spark import Enrich
from pyspark.sql import SparkSession

source, target, checkpoint = sys.argv[1:]
job = os.path.join(os.path.dirname(__file__), "job.toml")

enrich = Enrich.start(job)
spark = SparkSession.builder.getOrCreate()
reviews = spark.readStream.format("delta").option("maxFilesPerTrigger", 2).load(source)
summaries = enrich.stream_to(reviews, target).option("checkpointLocation", checkpoint)
summaries.trigger(availableNow=True).start().awaitTermination()
spark.stop()
enrich.stop()
