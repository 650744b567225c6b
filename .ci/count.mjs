// Prints "<passed> <failed>" of a vitest JSON report. A test file that could not be loaded counts as one failure.
import { readFileSync } from "node:fs";

const report = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { numPassedTests, numFailedTests, testResults } = report;
if (!Number.isInteger(numPassedTests) || !Number.isInteger(numFailedTests)) throw new Error("not a vitest report");
const broken = testResults.filter(
  (file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed"),
);
process.stdout.write(`${numPassedTests} ${numFailedTests + broken.length}`);
