/** Where agents' sockets lie: the system takes no socket whose path has more than about 100 characters. */

import { tmpdir } from "node:os";

export function socketFolder(): string {
  const folder = tmpdir();
  return folder.length <= 70 ? folder : "/tmp";
}
