"""Runs a job of enrich every hour, and later tasks only when every row of the source is in the target."""

import json
import os
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

# BashOperator reads standard output and standard error as one stream and keeps its last line, so the summary is printed
# after everything else. A retry would not change what statuses 2 to 5 say: `checked_summary` fails the task for good.
RUN = """
summary=$(enrich run "$ENRICH_JOB" --max-duration 50min --grace 30s --summary json)
status=$?
echo "$summary"
case $status in
  2 | 3 | 4 | 5) exit 0 ;;
  *) exit $status ;;
esac
"""


def checked_summary(last_line):
    """Returns the summary of a run that ended with status 0, which becomes the task's XCom."""
    if not last_line:
        raise AirflowFailException("enrich refused its arguments or the job file; the log says why")
    summary = json.loads(last_line)
    if summary["status"] != 0:
        message = summary.get("message", summary["end"])
        raise AirflowFailException(f"enrich ended with status {summary['status']}: {message}")
    return summary


with DAG(
    dag_id="enrich_reviews",
    schedule="@hourly",
    catchup=False,
    max_active_runs=1,
    default_args={
        "env": {"ENRICH_JOB": os.environ.get("ENRICH_JOB", "/etc/enrich/reviews.toml")},
        "append_env": True,
    },
) as dag:
    run = BashOperator(
        task_id="run",
        bash_command=RUN,
        output_processor=checked_summary,
        # Another run holds the job.
        skip_on_exit_code=6,
        # After a fault of the machine or an interruption.
        retries=2,
        retry_delay=timedelta(minutes=5),
        execution_timeout=timedelta(minutes=55),
    )
    # A run may also end because its time is up, or because it waits for batches at a provider.
    is_complete = ShortCircuitOperator(
        task_id="is_complete",
        python_callable=lambda end: end == "complete",
        op_args=["{{ ti.xcom_pull('run')['end'] }}"],
    )
    list_errors = BashOperator(task_id="list_errors", bash_command='enrich errors "$ENRICH_JOB"')
    run >> is_complete >> list_errors
