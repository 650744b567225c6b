// Prints "<passed> <failed>" of a vitest JSON report, or ends with an error. A test file that could not be loaded, or
// that failed outside its tests, counts as one failure.
import { readFileSync } from "node:fs";

try {
  const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(process.argv[2], "utf8"));
  if (!Number.isInteger(numPassedTests) || !Number.isInteger(numFailedTests)) throw new Error("not a vitest report");
  const broken = testResults.filter(
    (file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed"),
  );
  process.stdout.write(`${numPassedTests} ${numFailedTests + broken.length}\n`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
