// The function node: verify, deduplicate in memory (bounded), answer 202, pass the body on.
const crypto = global.get("crypto");
const key = Buffer.from(env.get("BENCHMARK_SECRET").replace(/^whsec_/, ""), "base64");
const headers = msg.req.headers;
const timestamp = headers["webhook-timestamp"];
const expected = crypto.createHmac("sha256", key)
    .update(`${headers["webhook-id"]}.${timestamp}.`).update(msg.payload).digest();
const offered = Buffer.from(headers["webhook-signature"].slice(3), "base64");
if (Math.abs(Date.now() / 1000 - Number(timestamp)) > 300
    || offered.length !== expected.length || !crypto.timingSafeEqual(offered, expected)) {
    msg.statusCode = 401;
    msg.payload = { error: "signature" };
    return [msg, null];
}
const seen = context.get("seen") || new Set();
context.set("seen", seen);
if (seen.has(headers["webhook-id"])) {
    msg.statusCode = 200;
    msg.payload = { duplicate: true };
    return [msg, null];
}
seen.add(headers["webhook-id"]);
if (seen.size > 100000) seen.delete(seen.values().next().value);
const body = msg.payload.toString();
const answer = { req: msg.req, res: msg.res, statusCode: 202, payload: { duplicate: false }, headers: {} };
return [answer, { payload: body, headers: { "Content-Type": "application/json" } }];
