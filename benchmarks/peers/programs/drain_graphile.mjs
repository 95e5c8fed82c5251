// graphile-worker with its local queue and batched completion, as in the configuration of
// https://worker.graphile.org/docs/performance ("Quick stats").
import { makeWorkerUtils, run, Logger } from "graphile-worker";
import pg from "pg";
import { database, executed, JOBS, PAYLOAD } from "./report.mjs";

const logger = new Logger(() => (level, message) => level === "error" && console.error(message));
const pool = new pg.Pool({ ...database(), max: 25 });

if (process.argv[2] === "fill") {
  const utils = await makeWorkerUtils({ pgPool: pool, logger });
  await utils.migrate();
  const body = JSON.parse(PAYLOAD);
  for (let start = 0; start < JOBS; start += 1000) {
    const count = Math.min(1000, JOBS - start);
    await utils.addJobs(Array.from({ length: count }, () => ({ identifier: "noop", payload: body })));
  }
  await utils.release();
  await pool.end();
} else {
  const runner = await run({
    preset: {
      worker: {
        concurrentJobs: 24,
        maxPoolSize: 25,
        localQueue: { size: Number(process.env.BENCHMARK_BATCH ?? 500) },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
    pgPool: pool,
    logger,
    taskList: { noop: () => executed() },
  });
  await runner.promise;
}
