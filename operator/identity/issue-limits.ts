/** How often certificates are asked for at the most. */

/** Each is a write's worth of work for the API server. */
export const reviewsAtOnceMax = 50;
export const reviewsPerSecond = 100;
export const reviewsBurst = 1000;
/** Of one pod: its agent may be started again and again, each time without its key. */
export const podRate = { ratePerSecond: 1 / 30, burst: 10 };
/** Of sessions without a certificate: they come to ask for one. */
export const strangerLimits = { sessionsMax: 2000, sessionMsMax: 20_000 };
