"""Celery on Redis: short tasks, so a large prefetch and results ignored.

https://docs.celeryq.dev/en/stable/userguide/optimizing.html: "64, or 128 for example", one prefork
child for each CPU; `ignore_result` where nobody reads results. Acknowledged early, as by default.
"""

import os

import requests
from celery import Celery

app = Celery("benchmark", broker=f"redis://127.0.0.1:{os.environ['BENCHMARK_REDIS']}/0")
app.conf.update(
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=int(os.environ.get("BENCHMARK_PREFETCH", "128")),
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)
_session = requests.Session()
_session.mount("http://", requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=64))
_session.trust_env = False


@app.task(name="noop")
def noop(body: str) -> None:
    """Do nothing."""


@app.task(name="deliver", autoretry_for=(requests.RequestException,), retry_backoff=True)
def deliver(body: str) -> None:
    """Pass the webhook on."""
    answer = _session.post(
        f"http://127.0.0.1:{os.environ['BENCHMARK_STUB']}/events",
        data=body.encode(),
        headers={"Content-Type": "application/json"},
        timeout=600,
    )
    answer.raise_for_status()
