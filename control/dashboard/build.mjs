// Bundles the dashboard into dist/: hashed assets and an index.html that names them. Fails above the size limit.
import { build } from "esbuild";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { gzipSync } from "node:zlib";

const LIMIT_BYTES = 400 * 1024;
rmSync("dist", { recursive: true, force: true });
mkdirSync("dist", { recursive: true });
const result = await build({
  entryPoints: { app: "src/main.ts", style: "src/style.css" },
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  outdir: "dist/assets",
  entryNames: "[name]-[hash]",
  metafile: true,
  legalComments: "eof",
  logLevel: "warning",
});
const names = Object.keys(result.metafile.outputs).map((path) => basename(path));
const script = names.find((name) => name.startsWith("app-") && name.endsWith(".js"));
const style = names.find((name) => name.startsWith("style-") && name.endsWith(".css"));
const page = readFileSync("src/index.html", "utf8").replace("SCRIPT", script).replace("STYLE", style);
writeFileSync("dist/index.html", page);
writeFileSync("dist/icon.svg", readFileSync("src/icon.svg"));
const size = [script, style].reduce((sum, name) => sum + gzipSync(readFileSync(`dist/assets/${name}`)).length, 0);
console.log(`dashboard: ${(size / 1024).toFixed(0)} KiB gzip`);
if (size > LIMIT_BYTES) {
  console.error(`dashboard: ${size} bytes gzip, the limit is ${LIMIT_BYTES}`);
  process.exit(1);
}
