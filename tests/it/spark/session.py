"""Spark sessions of the tests, on loopback and with Delta: of the master in SPARK_MASTER, with the jar in DELTA_JAR."""

import os
import sys

from pyspark.sql import SparkSession

SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.executor.memory": "600m",
    "spark.jars": os.environ["DELTA_JAR"],
    "spark.log.level": "ERROR",
    "spark.network.timeout": "600s",
    "spark.rpc.askTimeout": "300s",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


def session(folder, **more):
    """A session whose catalog lies in a folder, with more settings; their underscores stand for dots."""
    os.environ.update(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
    builder = SparkSession.builder.master(os.environ["SPARK_MASTER"]).appName("enrich")
    places = {"spark.sql.warehouse.dir": f"{folder}/warehouse", "spark.local.dir": f"{folder}/local"}
    more = {name.replace("_", "."): value for name, value in more.items()}
    for name, value in (SETTINGS | places | more).items():
        builder = builder.config(name, value)
    return builder.getOrCreate()
