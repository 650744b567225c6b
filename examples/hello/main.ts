import { serve } from "leveros";
import { hello } from "./methods.ts";

await serve(hello);
