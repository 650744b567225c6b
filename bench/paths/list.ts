/** The paths in the order of a round. */

import { floor, floorTls } from "./floor.ts";
import { grpc } from "./grpc.ts";
import { lever } from "./lever.ts";
import type { Path } from "./path.ts";
import { raw } from "./raw.ts";

export const paths: readonly Path[] = [raw, floor, floorTls, grpc, lever];

/** The paths by which the others are divided in the same round. */
export const bases: readonly string[] = [floor.name, floorTls.name, grpc.name];
