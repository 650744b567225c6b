import { serve } from "leveros";
import { upload } from "./methods.ts";

await serve(upload);
