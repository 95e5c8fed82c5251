// BullMQ's worker in a process of its own: calls the vendor, 64 at a time, over kept connections.
import { Worker } from "bullmq";
import { Pool } from "undici";
import { REDIS } from "./report.mjs";

const CONCURRENCY = 64;
const vendor = new Pool(`http://127.0.0.1:${process.env.BENCHMARK_STUB}`, { connections: CONCURRENCY });
const headers = { "Content-Type": "application/json" };

async function deliver(job) {
  const answer = await vendor.request({ path: "/events", method: "POST", headers, body: job.data.body });
  await answer.body.dump();
  if (answer.statusCode >= 300) throw new Error(`status ${answer.statusCode}`);
}

new Worker("delivered", deliver, {
  connection: { ...REDIS, maxRetriesPerRequest: null },
  concurrency: CONCURRENCY,
});
