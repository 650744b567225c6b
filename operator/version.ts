/** The operator's version: the package's. */

export const operatorVersion = "0.1.0";
