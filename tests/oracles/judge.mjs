// Asks each sender's own package, or a well-known one, about signed requests.
//
// Reads {"cases": […], "handshakes": […]} and answers with each case's verdict, with what the
// package itself would have signed where it can sign, with the answers to handshakes, and with
// GitHub's example bodies. Time stands still at each case's "now".

import { EventEmitter } from "node:events";
import https from "node:https";
import { createRequire, register } from "node:module";

import "@shopify/shopify-api/adapters/node";
import { LinearWebhookClient } from "@linear/sdk/webhooks";
import { signWebhookPayload, verifyWebhookSignature } from "@notionhq/client";
import { sign as signGithub, verify as verifyGithub } from "@octokit/webhooks-methods";
import { ApiVersion, LogSeverity, shopifyApi } from "@shopify/shopify-api";
import { AwsLambdaReceiver } from "@zoom/rivet/chatbot";
import { validateSignature, validateWebhook } from "twitter-autohook";
import XHubSignature from "x-hub-signature";

const require = createRequire(import.meta.url);
console.debug = console.error = () => {};

// The validators for Nuxt take a request apart with h3, which is not needed for that.
const stood_in = {
  "#imports": "export const useRuntimeConfig = (event) => ({ webhook: event.config });",
  h3: `export const getRequestHeaders = (event) => event.headers;
       export const readRawBody = (event) => event.body;
       export const createError = ({ message }) => new Error(message);`,
  scule: "export const snakeCase = (text) => text;",
};
register(
  "data:text/javascript," +
    encodeURIComponent(
      `const texts = ${JSON.stringify(stood_in)};
       export const resolve = (name, context, next) => texts[name] === undefined
         ? next(name, context)
         : { url: "data:text/javascript," + encodeURIComponent(texts[name]), shortCircuit: true };`,
    ),
);

const nuxt = (preset, Preset, settings) => async (it) => {
  const file = `./node_modules/nuxt-webhook-validators/dist/runtime/server/lib/validators/${preset}.js`;
  const validate = (await import(file))[`isValid${Preset}Webhook`];
  const config = { [preset]: settings(it.secret) };
  return validate({ headers: it.headers, body: it.body, config });
};

const n8n = (Preset) => (it) => {
  const file = `./node_modules/n8n-nodes-base/dist/nodes/${Preset}/${Preset}TriggerHelpers.js`;
  const request = { rawBody: Buffer.from(it.body), header: (name) => it.headers[name] };
  return require(file).verifySignature.call({
    getRequestObject: () => request,
    getHeaderData: () => it.headers,
    getWorkflowStaticData: () => ({ webhookSecret: it.secret, hookSecret: it.secret }),
  });
};

const shopify = (it) => {
  const api = shopifyApi({
    apiKey: "key",
    apiSecretKey: it.secret,
    apiVersion: ApiVersion.October25,
    hostName: "hooks.example.com",
    isEmbeddedApp: false,
    logger: { level: LogSeverity.Error, log: () => {} },
  });
  // What else Shopify always sends.
  const headers = {
    "x-shopify-shop-domain": "a.myshopify.com",
    "x-shopify-api-version": "2025-10",
    ...it.headers,
  };
  const rawRequest = { method: "POST", url: "/webhooks/shopify", headers };
  return api.webhooks
    .validate({ rawBody: it.body, rawRequest, rawResponse: {} })
    .then((answer) => answer.valid);
};

const zoom = async (it) => {
  const receiver = new AwsLambdaReceiver({ webhooksSecretToken: it.secret });
  receiver.init({ eventEmitter: new EventEmitter() });
  return receiver.start()({ body: it.body, headers: it.headers, isBase64Encoded: false }, {});
};

const sns = (it) => {
  https.get = (url, answer) => {
    const response = new EventEmitter();
    response.statusCode = 200;
    answer(response);
    response.emit("data", it.fetched);
    response.emit("end");
    return new EventEmitter();
  };
  delete require.cache[require.resolve("sns-validator")]; // with the certificates it has kept
  const MessageValidator = require("sns-validator");
  return new Promise((resolve) =>
    new MessageValidator().validate(it.body, (error) => resolve(!error)),
  );
};

const hub = (algorithm) => ({
  verify: (it) =>
    new XHubSignature(algorithm, it.secret).verify(it.headers["x-hub-signature"], it.body),
  sign: (it) => new XHubSignature(algorithm, it.secret).sign(it.body),
});

const oracles = {
  asana: { verify: n8n("Asana") },
  "aws-sns": { verify: sns },
  bitbucket: { verify: nuxt("bitbucket", "Bitbucket", (secretKey) => ({ secretKey })) },
  calendly: { verify: n8n("Calendly") },
  docusign: { verify: nuxt("docusign", "Docusign", (secretKey) => ({ secretKey })) },
  dropbox: { verify: nuxt("dropbox", "Dropbox", (appSecret) => ({ appSecret })) },
  github: {
    verify: (it) => verifyGithub(it.secret, it.body, it.headers["x-hub-signature-256"]),
    sign: (it) => signGithub(it.secret, it.body),
  },
  gitlab: { verify: nuxt("gitlab", "GitLab", (secretToken) => ({ secretToken })) },
  intercom: hub("sha1"),
  jira: hub("sha256"),
  linear: {
    verify: (it) =>
      new LinearWebhookClient(it.secret).verify(
        Buffer.from(it.body),
        it.headers["linear-signature"],
      ),
  },
  meta: { verify: nuxt("meta", "Meta", (appSecret) => ({ appSecret })) },
  notion: {
    verify: (it) =>
      verifyWebhookSignature({
        body: it.body,
        signature: it.headers["x-notion-signature"],
        verificationToken: it.secret,
      }),
    sign: (it) => signWebhookPayload({ body: it.body, verificationToken: it.secret }),
  },
  shopify: { verify: shopify },
  typeform: { verify: n8n("Typeform") },
  x: { verify: (it) => validateSignature(it.headers, { consumer_secret: it.secret }, it.body) },
  zendesk: { verify: n8n("Zendesk") },
  zoom: { verify: (it) => zoom(it).then((answer) => answer.statusCode === 200) },
};

const answers = {
  x: (it) => JSON.stringify(validateWebhook(it.token, { consumer_secret: it.secret })),
  zoom: (it) => zoom(it).then((answer) => answer.body),
};

async function verdict({ verify, sign }, it) {
  Date.now = () => it.now * 1000;
  let accepted = false;
  try {
    accepted = await verify(it);
  } catch {
    // Some refuse by raising.
  }
  return { accepted, signed: sign ? await sign(it) : null };
}

let asked = "";
for await (const chunk of process.stdin) asked += chunk;
const { cases, handshakes } = JSON.parse(asked);
const told = { verdicts: [], answers: [], bodies: [] };
for (const it of cases) told.verdicts.push(await verdict(oracles[it.preset], it));
for (const it of handshakes) told.answers.push(await answers[it.preset](it));
for (const { name, examples } of require("@octokit/webhooks-examples"))
  for (const [number, example] of examples.entries())
    told.bodies.push({ name: `${name}.${number}`, body: JSON.stringify(example) });
process.stdout.write(JSON.stringify(told));
