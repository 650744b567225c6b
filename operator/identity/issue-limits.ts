/**
 * How often certificates are asked for at the most. Of what anybody may do who reaches the port, one address has an eighth
 * of the whole: it takes nobody else's, and many pods may have the address of their node.
 */

/** Each is a write's worth of work for the API server. */
export const reviewsAtOnceMax = 50;
export const reviewRate = { ratePerSecond: 100, burst: 1000 };
/** Of one address, before anything is done for it. */
export const addressRate = { ratePerSecond: 12.5, burst: 125 };
/** Of one pod: its agent may be started again and again, each time without its key. */
export const podRate = { ratePerSecond: 1 / 30, burst: 10 };
/** Of sessions without a certificate: they come to ask for one. A peer is an address here. */
export const strangerLimits = { sessionsMax: 2000, sessionsOfPeerMax: 250, sessionMsMax: 20_000 };
