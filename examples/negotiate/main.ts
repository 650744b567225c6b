import { serve } from "leveros";
import { negotiate } from "./methods.ts";

await serve(negotiate);
