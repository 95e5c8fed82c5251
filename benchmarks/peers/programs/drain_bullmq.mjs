// BullMQ: one worker with a concurrency (https://docs.bullmq.io/guide/workers/concurrency: no-op-like
// jobs want a high one), finished jobs removed (https://docs.bullmq.io/guide/workers/auto-removal-of-jobs).
import { Queue, Worker } from "bullmq";
import { executed, JOBS, PAYLOAD, REDIS } from "./report.mjs";

if (process.argv[2] === "fill") {
  const queue = new Queue("noop", { connection: REDIS });
  for (let start = 0; start < JOBS; start += 1000) {
    const count = Math.min(1000, JOBS - start);
    const job = { name: "noop", data: { body: PAYLOAD }, opts: { removeOnComplete: true } };
    await queue.addBulk(Array.from({ length: count }, () => job));
  }
  await queue.close();
} else {
  const concurrency = Number(process.env.BENCHMARK_CONCURRENCY ?? 64);
  const worker = new Worker("noop", async () => {}, {
    connection: { ...REDIS, maxRetriesPerRequest: null },
    concurrency,
  });
  worker.on("completed", () => executed()); // after Redis has recorded it
}
