import { serve } from "leveros";
import { Room } from "./room.ts";

await serve({}, { resource: Room });
