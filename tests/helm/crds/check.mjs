// Reads a JSON array of custom resources and prints what is wrong with each, one problem a line.
//
// The schemas of the custom resources let unknown fields pass; the TypeScript types made from them do not, when an
// object is written out as a literal. So every object is checked twice: by its schema and by the compiler.
import { readFileSync, writeFileSync, rmSync } from "node:fs";
import ts from "typescript";

const MODELS = {
  "gateway.networking.k8s.io": ["gateway-api/gateway.networking.k8s.io", "v1"],
  "monitoring.coreos.com": ["prometheus-operator/monitoring.coreos.com", "v1"],
  // Istio serves one schema under v1beta1 and v1; the package knows the older name.
  "networking.istio.io": ["istio/networking.istio.io", "v1beta1"],
};

function model(object) {
  const [group, version] = object.apiVersion.split("/");
  const [folder, published] = MODELS[group] ?? [];
  if (!folder) throw new Error(`${object.apiVersion} ${object.kind}: no published types known`);
  const known = version === "v1" ? published : version;
  const from = `@kubernetes-models/${folder}/${known}/${object.kind}`;
  return { from, apiVersion: `${group}/${known}` };
}

const objects = JSON.parse(readFileSync(0, "utf8")).map((object) => ({ ...model(object), object }));
const problems = [];

for (const { from, apiVersion, object } of objects) {
  const loaded = await import(from);
  try {
    new loaded[object.kind]({ ...object, apiVersion }).validate();
  } catch (error) {
    problems.push(`${object.kind} ${object.metadata.name}: ${error.message}`);
  }
}

const source = objects
  .map(({ from, apiVersion, object }, at) => {
    const { kind, apiVersion: _, ...rest } = object;
    return `import { ${kind} as K${at} } from "${from}";\nnew K${at}(${JSON.stringify(rest)});\n`;
  })
  .join("");
const file = new URL(`./rendered-${process.pid}.mts`, import.meta.url).pathname;
writeFileSync(file, source);
try {
  const program = ts.createProgram([file], {
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    types: [],
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    target: ts.ScriptTarget.ES2022,
  });
  for (const { messageText } of ts.getPreEmitDiagnostics(program)) {
    problems.push(ts.flattenDiagnosticMessageText(messageText, " "));
  }
} finally {
  rmSync(file);
}

console.log(problems.join("\n"));
