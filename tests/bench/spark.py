"""What it costs to send rows through Spark to `enrich serve`, beside `enrich run` on the same rows.

    python tests/bench/spark.py [--enrich target/release/enrich] [--rows 40000] [--tasks 1,2,4,8]

needs pyspark, pyarrow and Java. Provider is the simulator in a process of its own. The first table has answers without
latency, and prints for each number of tasks: rows a second, their ratio to `enrich run`, and CPU microseconds a row of Spark's
JVM, of its Python workers and of the server. The second has 200 ms and 512 in flight, and prints the share of the ideal, 2,560
rows a second. Everything shares the machine's cores, the simulator too.
"""

import argparse
import atexit
import os
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../examples/spark"))
os.environ.update(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")

from enrich_spark import Enrich  # noqa: E402
from pyspark.sql import SparkSession, functions as F  # noqa: E402

JOB = """app_id = "{name}"
checkpoint.path = "{name}"
{tables}
[window]
max_rows = 50_000
[provider.sim]
base_url = "http://127.0.0.1:{port}/v1"
model = "simulated"
max_concurrency = {in_flight}
[[step]]
output = "summary"
prompt = "Summarize the following review in one sentence.\\n\\n{{{{ review }}}}"
[simulator]
latency = "{latency}"
"""
TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid):
    children = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                children.setdefault(int(stat.read().rsplit(") ", 1)[1].split()[1]), []).append(int(entry))
        except OSError:
            pass  # It has ended.
    found, following = [], [pid]
    while following:
        more = children.get(following.pop(), [])
        found += more
        following += more
    return found


def cpu(pid):
    """CPU seconds of a process and of its children that have ended."""
    with open(f"/proc/{pid}/stat") as stat:
        return sum(map(int, stat.read().rsplit(") ", 1)[1].split()[11:15])) / TICKS


def cpu_of_spark():
    """CPU seconds of Spark's JVM and of its Python workers."""
    jvm = workers = 0.0
    for pid in descendants(os.getpid()):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                line = line.read()
            if b"pyspark.daemon" in line:
                workers += cpu(pid)
            elif b"SparkSubmit" in line:
                with open(f"/proc/{pid}/stat") as stat:
                    jvm += sum(map(int, stat.read().rsplit(") ", 1)[1].split()[11:13])) / TICKS
        except OSError:
            pass
    return jvm, workers


def reviews(spark, name, rows, tasks):
    text = F.concat(F.lit(f"{name} "), F.col("id"), F.lit(" " + "It does what it says, and that well. " * 8))
    return spark.range(0, rows, 1, tasks).withColumn("review", text)


class Bench:
    def __init__(self, folder, program, latency, in_flight):
        self.folder, self.program, self.in_flight, self.latency = folder, program, in_flight, latency
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        job = self.job("simulated", self.port, 'source.path = "none"\ntarget.path = "of_it"')
        command = [program, "simulate", job, "--port", str(self.port)]
        self.simulator = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        atexit.register(self.simulator.kill)  # Where the benchmark fails.
        while not self.is_listening():
            time.sleep(0.1)

    def is_listening(self):
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            assert self.simulator.poll() is None, "the simulator does not start"
            return False
        return True

    def job(self, name, port, tables=""):
        name = f"{name}-{self.latency}"
        path = f"{self.folder}/{name}.toml"
        with open(path, "w") as file:
            file.write(JOB.format(name=name, port=port, tables=tables, in_flight=self.in_flight, latency=self.latency))
        return path

    def run(self, spark, rows):
        """Seconds that `enrich run` takes."""
        source, target = f"{self.folder}/source-{self.latency}", f"{self.folder}/target-{self.latency}"
        reviews(spark, "run", rows, 4).write.parquet(source)
        job = self.job("run", self.port, f'source.path = "{source}"\ntarget.path = "{target}"')
        began, used = time.monotonic(), os.times()
        subprocess.run([self.program, "run", job], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ended = os.times()
        return time.monotonic() - began, ended[2] + ended[3] - used[2] - used[3]

    def serve(self, spark, rows, tasks):
        """Seconds that Spark takes, and CPU seconds of its JVM, of its workers and of the server."""
        name = f"serve-{tasks}"
        enrich = Enrich.start(self.job(name, self.port), self.program)
        warm = enrich(reviews(spark, f"{name} warm", 200 * tasks, tasks))
        warm.write.format("noop").mode("overwrite").save()
        df = enrich(reviews(spark, name, rows, tasks))
        before, began = [*cpu_of_spark(), cpu(enrich.server.pid)], time.monotonic()
        df.write.format("noop").mode("overwrite").save()
        took, after = time.monotonic() - began, [*cpu_of_spark(), cpu(enrich.server.pid)]
        enrich.stop()
        return took, *(end - start for start, end in zip(before, after))

    def end(self):
        self.simulator.terminate()
        self.simulator.wait()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--enrich", default=os.path.join(HERE, "../../target/release/enrich"))
    arguments.add_argument("--rows", type=int, default=40_000)
    arguments.add_argument("--tasks", default="1,2,4,8")
    arguments = arguments.parse_args()
    rows, counts = arguments.rows, [int(count) for count in arguments.tasks.split(",")]
    settings = {"spark.ui.enabled": "false", "spark.log.level": "ERROR", "spark.ui.showConsoleProgress": "false"}
    spark = SparkSession.builder.master(f"local[{max(counts)}]").config(map=settings).getOrCreate()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, arguments.enrich, "0ms", 64)
        took, used = bench.run(spark, rows)
        print(f"no latency, {rows:,} rows: enrich run {rows / took:,.0f} rows/s, {used / rows * 1e6:.0f} µs of CPU a row")
        print(f"{'tasks':>5} {'rows/s':>8} {'of run':>7} {'JVM µs':>7} {'Python µs':>10} {'server µs':>10}")
        for tasks in counts:
            by_serve, *cpus = bench.serve(spark, rows, tasks)
            jvm, workers, server = (seconds / rows * 1e6 for seconds in cpus)
            print(f"{tasks:>5} {rows / by_serve:>8,.0f} {took / by_serve:>7.2f} {jvm:>7.0f} {workers:>10.0f} {server:>10.0f}")
        bench.end()
        bench, ideal = Bench(folder, arguments.enrich, "200ms", 512), 512 / 0.2
        took, _ = bench.run(spark, rows)
        print(f"200 ms, 512 in flight: enrich run {rows / took / ideal:.0%} of the ideal")
        for tasks in counts:
            by_serve, *_ = bench.serve(spark, rows, tasks)
            print(f"{tasks:>5} {rows / by_serve:>8,.0f} rows/s, {rows / by_serve / ideal:.0%} of the ideal")
        bench.end()
    spark.stop()


main()
