// Standard Webhooks, as a user of Node writes it with node:crypto.
import { createHmac, timingSafeEqual } from "node:crypto";

const KEY = Buffer.from(process.env.BENCHMARK_SECRET.replace(/^whsec_/, ""), "base64");

/** Tell whether *body*, a Buffer, was signed by the owner of the secret within five minutes. */
export function verified(headers, body) {
  const timestamp = headers["webhook-timestamp"];
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > 300) return false;
  const expected = createHmac("sha256", KEY)
    .update(`${headers["webhook-id"]}.${timestamp}.`)
    .update(body)
    .digest();
  const offered = Buffer.from(headers["webhook-signature"].slice(3), "base64");
  return offered.length === expected.length && timingSafeEqual(offered, expected);
}
