/** The version of `lever`: the package's. */

export const version = "0.1.0";
