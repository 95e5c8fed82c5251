// BullMQ: one worker with a concurrency (https://docs.bullmq.io/guide/workers/concurrency), of 300 as
// its author suggests for jobs that do not compute (https://github.com/OptimalBits/bull/discussions/2412);
// finished jobs removed (https://docs.bullmq.io/guide/queues/auto-removal-of-jobs).
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
  const concurrency = Number(process.env.BENCHMARK_CONCURRENCY ?? 300);
  const worker = new Worker("noop", async () => {}, {
    connection: { ...REDIS, maxRetriesPerRequest: null },
    concurrency,
  });
  worker.on("completed", () => executed()); // after Redis has recorded it
}
