"""FastAPI in front of Celery: verify, deduplicate in Redis, queue, answer 202."""

import base64
import hashlib
import hmac
import os
import time

from celery_app import app as celery
from celery_app import deliver
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from redis.asyncio import Redis

KEY = base64.b64decode(os.environ["BENCHMARK_SECRET"].removeprefix("whsec_"))
DEDUPE_SECONDS = 7 * 86400

app = FastAPI(openapi_url=None)
redis = Redis(host="127.0.0.1", port=int(os.environ["BENCHMARK_REDIS"]), max_connections=64)


@app.get("/")
async def ready() -> Response:
    return Response(status_code=200 if await redis.ping() else 503)


@app.post("/webhooks/{vendor}")
async def receive(vendor: str, request: Request) -> JSONResponse:
    body = await request.body()
    message_id = request.headers["webhook-id"]
    timestamp = request.headers["webhook-timestamp"]
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    offered = request.headers["webhook-signature"].removeprefix("v1,")
    if not hmac.compare_digest(offered, expected) or abs(time.time() - int(timestamp)) > 300:
        return JSONResponse({"error": "signature"}, 401)
    # A crash between this line and the next but one loses the webhook: two stores of truth.
    if not await redis.set(f"seen:{vendor}:{message_id}", 1, nx=True, ex=DEDUPE_SECONDS):
        return JSONResponse({"duplicate": True}, 200)
    with celery.producer_pool.acquire(block=True) as producer:
        deliver.apply_async((body.decode(),), queue=vendor, producer=producer)
    return JSONResponse({"duplicate": False}, 202)
