import { serve } from "leveros";
import { greeter } from "./methods.ts";

await serve(greeter);
