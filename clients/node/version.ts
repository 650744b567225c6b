/** What this library calls itself in HELLO and when it registers. */
export const library = "leveros";
export const version = "0.1.0";
