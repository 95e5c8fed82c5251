// Node-RED without its editor: only the flow beside this file runs. https://nodered.org/docs/user-guide/runtime/settings-file
const path = require("node:path");

module.exports = {
  uiHost: "127.0.0.1",
  uiPort: Number(process.env.BENCHMARK_PORT),
  userDir: process.env.BENCHMARK_FOLDER,
  flowFile: path.join(process.env.BENCHMARK_FOLDER, "flow.json"),
  httpAdminRoot: false,
  disableEditor: true,
  diagnostics: { enabled: false },
  telemetry: { enabled: false },
  logging: { console: { level: "warn", metrics: false, audit: false } },
  functionGlobalContext: { crypto: require("node:crypto") },
};
