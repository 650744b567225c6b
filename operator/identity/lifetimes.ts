/** How long authorities and certificates live. */

export const dayMs = 86_400_000;
export const hourMs = 3_600_000;
/** Of Lever's own CA. */
export const authorityLifeMs = 365 * dayMs;
/** Of every certificate of an agent, a gateway or the operator. */
export const certificateLifeMs = dayMs;
/** Clocks of nodes may differ by this much: certificates begin so long before they are made. */
export const clockSkewMs = 5 * 60_000;
