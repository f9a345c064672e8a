"""The streaming job of the examples on a folder's `source` and `job.toml`. It says what it does.

Arguments: the folder, the program, and the epoch behind whose commit it dies.
"""

import os
import runpy
import signal
import sys

import enrich_spark
from enrich_spark import Enrich
from session import session

folder, program, dies_in = sys.argv[1], sys.argv[2], int(sys.argv[3])
example = os.path.join(os.path.dirname(enrich_spark.__file__), "stream_job.py")
start, committed, stop = Enrich.start, Enrich.committed, Enrich.stop


def start_of_folder(job):
    enrich = start(f"{folder}/job.toml", program)
    print("server", enrich.server.pid, flush=True)
    return enrich


def committed_or_dead(enrich, epoch):
    if epoch == dies_in:
        os.kill(os.getpid(), signal.SIGKILL)
    committed(enrich, epoch)
    print("committed", epoch, flush=True)


Enrich.start = start_of_folder
Enrich.committed = committed_or_dead
Enrich.stop = lambda enrich: print("ended", stop(enrich), flush=True)
session(folder)
sys.argv = [example, f"{folder}/source", f"{folder}/target", f"{folder}/progress"]
runpy.run_path(example)
