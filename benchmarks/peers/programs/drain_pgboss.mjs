// pg-boss with batch fetches, going on at once while they come back full
// (https://github.com/timgit/pg-boss/blob/master/docs/api/workers.md: batchSize, burstWhenBatchFull).
import { PgBoss } from "pg-boss";
import { database, executed, JOBS, PAYLOAD } from "./report.mjs";

const boss = new PgBoss({ ...database(), max: 10 });
boss.on("error", console.error);
await boss.start();
await boss.createQueue("noop");

if (process.argv[2] === "fill") {
  const data = JSON.parse(PAYLOAD);
  for (let start = 0; start < JOBS; start += 1000) {
    const count = Math.min(1000, JOBS - start);
    await boss.insert("noop", Array.from({ length: count }, () => ({ data })));
  }
  await boss.stop();
} else {
  const batchSize = Number(process.env.BENCHMARK_BATCH ?? 1000);
  const options = { batchSize, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 };
  await boss.work("noop", options, async (jobs) => executed(jobs.length));
}
