// What the programs in JavaScript share: their order, the report of the last job, connections.
import { writeFileSync } from "node:fs";

export const JOBS = Number(process.env.BENCHMARK_JOBS);
export const PAYLOAD = process.env.BENCHMARK_PAYLOAD;
export const REDIS = { host: "127.0.0.1", port: Number(process.env.BENCHMARK_REDIS) };

/** Return the settings of node-postgres for the server that BENCHMARK_DATABASE names. */
export function database() {
  const [, user, password, name, host, port] =
    process.env.BENCHMARK_DATABASE.match(/^postgresql:\/\/(.*?):(.*?)@\/(.*?)\?host=(.*?)&port=(.*)$/);
  return { user, password, database: name, host: decodeURIComponent(host), port: Number(port) };
}

let first = 0n;
let count = 0;

/** Count *jobs*; after the last one write when the first and the last ran (CLOCK_MONOTONIC, ns). */
export function executed(jobs = 1) {
  if (!count) first = process.hrtime.bigint();
  count += jobs;
  if (count >= JOBS && count - jobs < JOBS) {
    writeFileSync(process.env.BENCHMARK_REPORT, `${first} ${process.hrtime.bigint()}\n`);
  }
}
