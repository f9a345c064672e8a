"""Rows of a Spark DataFrame to `enrich serve`, and the columns of its job beside them. Needs pyspark and pyarrow.

`Enrich` is for Spark. `Client` knows no Spark: whatever has Arrow record batches can use it.
"""

import hashlib
import http.client
import inspect
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pyarrow as pa

KEY = "__key"
WAIT_SECONDS = 25
RUNNING = 6


class Stopped(RuntimeError):
    """The job sends nothing any more, as for a refused key or a spent budget. Another attempt is refused at once."""


class Client:
    """Talks to the servers of one job, and waits for one that is away, for at most `patience` seconds.

    Each thread keeps a connection to each server.
    """

    def __init__(self, urls, token=None, patience=300):
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        self.token, self.patience = token, patience
        self.connections, self.is_closed = {}, False

    def call(self, url, method, path, body=None, expected=()):
        """Returns the status and the body of a response that is a success or expected."""
        headers = {"content-type": "application/vnd.apache.arrow.stream"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        away_since, place = None, (threading.get_ident(), url)
        while not self.is_closed:
            connection = self.connections.setdefault(place, connection_to(url))
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                status, content = response.status, response.read()
                delay = response.headers.get("retry-after", "")
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                status, content, delay = 0, repr(error).encode(), ""
            if status == 503 and delay.isdigit():  # The window of the server is full.
                away_since = None
                time.sleep(int(delay))
            elif status in (0, 502, 503, 504):  # The server is away, or is so for a proxy.
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > self.patience:
                    raise ConnectionError(f"{url} has been away for {self.patience} seconds: {content.decode()}")
                time.sleep(0.2)
            elif status == 409:
                end = json.loads(content)
                why = end["class"] or end["end"]
                raise Stopped(f"enrich has stopped with status {end['status']} ({why}): {end['message']}")
            elif status >= 400 and status not in expected:
                raise RuntimeError(f"{url}{path} answers {status}: {content.decode()}")
            else:
                return status, content
        raise ConnectionError("the client is closed")

    def outcomes(self, batch, epoch=0):
        """Returns the job's columns for the rows of a record batch, in their order."""
        body = stream_of(batch.schema, batch)
        name = hashlib.blake2b(body, digest_size=16).hexdigest()
        url = self.urls[int(name, 16) % len(self.urls)]
        path = f"/v1/batches/{name}?epoch={epoch}&wait={WAIT_SECONDS}"
        while True:
            status, content = self.call(url, "PUT", path, body, expected=(413,))
            while status == 202:
                status, content = self.call(url, "GET", path, expected=(404,))
            if status != 404:  # Else the server has been started again.
                break
        if status == 413:
            if batch.num_rows == 1:
                raise RuntimeError(f"{url} takes no row of {len(body)} bytes: {content.decode()}")
            half = batch.num_rows // 2
            halves = [self.outcomes(part, epoch) for part in (batch.slice(0, half), batch.slice(half))]
            return pa.Table.from_batches(halves).combine_chunks().to_batches()[0]
        return pa.ipc.open_stream(content).read_next_batch()

    def enrich(self, batches, epoch=0, rows=256, at_once=8, schema=None):
        """Yields record batches of at most `rows` rows with the job's columns beside their own, in their order.

        `at_once` of them are with the servers at a time. `schema` has other names and types for the columns.
        """

        def enriched():
            part, future = parts.popleft()
            outcomes = future.result()
            columns = [(name, part.column(at)) for at, name in enumerate(part.schema.names) if name != KEY]
            columns += zip(outcomes.schema.names, outcomes.columns)
            return pa.RecordBatch.from_arrays([column for _, column in columns], [name for name, _ in columns])

        parts, threads = deque(), ThreadPoolExecutor(at_once)
        try:
            for batch in batches:
                if schema:
                    columns = [column.cast(field.type) for column, field in zip(batch.columns, schema)]
                    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
                for at in range(0, batch.num_rows, rows):
                    part = batch.slice(at, rows)
                    parts.append((part, threads.submit(self.outcomes, part, epoch)))
                    if len(parts) == at_once:
                        yield enriched()
            while parts:
                yield enriched()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            self.close()

    def close(self):
        """Breaks the connections, so that no thread waits on, and no server believes that somebody does."""
        self.is_closed = True
        for connection in list(self.connections.values()):
            if connection.sock:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # The server has closed it.


def connection_to(url):
    """An HTTP connection that is opened by its first request."""
    at = urlsplit(url)
    kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
    return kind(at.hostname, at.port, timeout=WAIT_SECONDS + 35)


def stream_of(schema, *batches):
    """An Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


class Enrich:
    """The job of one or several servers, applied to DataFrames."""

    server = None

    def __init__(self, urls, token=None, patience=300):
        self.client_arguments = (urls, token, patience)
        self.client = Client(*self.client_arguments)

    def __reduce__(self):
        return Enrich, self.client_arguments

    @classmethod
    def start(cls, job, binary="enrich", host="127.0.0.1", arguments=(), patience=300):
        """Starts a server that ends with this process. Executors on other machines need its address as `host`."""
        until, token = time.monotonic() + patience, secrets.token_urlsafe()
        with tempfile.NamedTemporaryFile("w") as token_file:
            token_file.write(token)
            token_file.flush()
            command = [binary, "serve", job, "--listen", f"{host}:0", "--token-file", token_file.name, "--with-parent"]
            while True:
                server = subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                if url := server.stdout.readline().strip():
                    break
                status = server.wait()
                if status != RUNNING or time.monotonic() > until:
                    raise RuntimeError(f"enrich serve does not start: status {status}")
                time.sleep(0.5)  # The server of a driver that was killed ends soon.
        enrich = cls(url, token, patience)
        enrich.server = server
        return enrich

    def stop(self):
        """Ends the server that `start` has started, and waits until it has ended."""
        self.server.stdin.close()
        return self.server.wait()

    def __call__(self, df, epoch=0, rows=256, at_once=8, key=None):
        """The rows of a DataFrame with the job's columns beside their own."""
        from pyspark import cloudpickle
        from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
        from pyspark.sql.types import StructType

        df = with_key(df, key)
        own = [field for field in df.schema.fields if field.name != KEY]
        # Before 4.1 it is in UTC anyway.
        zone = {"timezone": "UTC"} if "timezone" in inspect.signature(to_arrow_schema).parameters else {}
        schema = to_arrow_schema(df.schema, **zone)
        status, content = self.client.call(self.client.urls[0], "POST", "/v1/schema", stream_of(schema))
        added = from_arrow_schema(pa.ipc.open_stream(content).schema, prefer_timestamp_ntz=True).fields
        if __name__ in sys.modules:  # Executors do not have this file; where it came from a driver, it goes by value anyway.
            cloudpickle.register_pickle_by_value(sys.modules[__name__])
        client_arguments = self.client_arguments

        def task(batches):
            return Client(*client_arguments).enrich(batches, epoch, rows, at_once, schema)

        # Columns are resolved by their names, in which a dot would be a field's.
        df = df.toDF(*(f"_{at}" for at in range(len(df.columns))))
        return df.mapInArrow(task, StructType(own + added))

    def stream_to(self, df, table, epoch=None, app_id=None, options=None, key=None, **asked):
        """Appends the rows with the job's columns to a Delta table, a path or a catalog's name, each epoch once.

        Of a stream, returns the DataStreamWriter to be started. Of another DataFrame, which is the rows of `epoch`, writes it.
        """
        app_id = app_id or self.job()["app_id"]

        def write(batch, epoch):
            writer = self(batch, epoch, **asked).write.format("delta").mode("append").options(**options or {})
            writer = writer.option("txnAppId", app_id).option("txnVersion", epoch)
            writer.save(table) if "/" in table else writer.saveAsTable(table)
            self.committed(epoch)

        df = with_key(df, key)
        return df.writeStream.foreachBatch(write) if df.isStreaming else write(df, epoch)

    def committed(self, epoch):
        """Says that a table has the rows of an epoch: their answers need not be kept any more."""
        for url in self.client.urls:
            self.client.call(url, "POST", f"/v1/epochs/{epoch}/committed")

    def job(self):
        """What the job is, as the first server says."""
        return json.loads(self.client.call(self.client.urls[0], "GET", "/v1/job")[1])

    def status(self):
        """What each server has done."""
        return [json.loads(self.client.call(url, "GET", "/v1/status")[1]) for url in self.client.urls]


def with_key(df, key):
    """Adds the key of each row: a hash of a column or of several."""
    from pyspark.sql import functions as F

    if key is None:
        return df
    columns = key if isinstance(key, (list, tuple)) else [key]
    return df.withColumn(KEY, F.unhex(F.sha2(F.to_json(F.struct(*columns)), 256)))
