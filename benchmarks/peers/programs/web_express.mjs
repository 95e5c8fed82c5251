// Express in front of BullMQ: verify, deduplicate by BullMQ's own key with a time to live, answer 202.
// https://expressjs.com/en/advanced/best-practice-performance.html (NODE_ENV=production).
import { Queue } from "bullmq";
import express from "express";
import { REDIS } from "./report.mjs";
import { verified } from "./signature.mjs";

const SEVEN_DAYS_MS = 7 * 86400 * 1000;
const queues = Object.fromEntries(
  ["scheduled", "delivered"].map((name) => [name, new Queue(name, { connection: REDIS })]),
);
const app = express();
app.disable("x-powered-by");
app.disable("etag");

app.post("/webhooks/:vendor", express.raw({ type: "*/*", limit: "1mb" }), async (request, response) => {
  if (!verified(request.headers, request.body)) return response.status(401).json({ error: "signature" });
  const id = request.headers["webhook-id"];
  const job = await queues[request.params.vendor].add(
    "event",
    { body: request.body.toString() },
    {
      deduplication: { id, ttl: SEVEN_DAYS_MS },
      attempts: 8,
      backoff: { type: "exponential", delay: 1000 },
      removeOnComplete: true,
    },
  );
  response.status(202).json({ id: job.id });
});
app.get("/", (_, response) => response.sendStatus(200));
app.listen(Number(process.argv[2]), "127.0.0.1");
