"""A streaming job whose driver starts its own server, as a user would write it. It says what it does.

Arguments: folder with `source` and `job.toml`, the program, and the epoch behind whose commit it dies.
"""

import os
import signal
import sys

from enrich_spark import Enrich
from session import session

folder, program, dies_in = sys.argv[1], sys.argv[2], int(sys.argv[3])
committed = Enrich.committed


def committed_or_dead(enrich, epoch):
    if epoch == dies_in:
        os.kill(os.getpid(), signal.SIGKILL)
    committed(enrich, epoch)
    print("committed", epoch, flush=True)


Enrich.committed = committed_or_dead
enrich = Enrich.start(f"{folder}/job.toml", program)
print("server", enrich.server.pid, flush=True)
spark = session(folder)
stream = spark.readStream.format("delta").option("maxFilesPerTrigger", 2).load(f"{folder}/source")
writer = enrich.stream_to(stream, f"{folder}/target", rows=50)
writer = writer.option("checkpointLocation", f"{folder}/progress").trigger(availableNow=True)
writer.start().awaitTermination()
spark.stop()
print("ended", enrich.stop(), flush=True)
