/**
 * The largest items that a library sends or takes at all, bytes of their encoded form. What a service allows lies below
 * and is enforced by the agents, which know its `limits`.
 */
export const argsBytesHardMax = 16 * 1024 * 1024;
export const resultBytesHardMax = 16 * 1024 * 1024;
export const messageBytesHardMax = 64 * 1024 * 1024;
/** The value that a method throws, or that a channel fails with. */
export const errorValueBytesMax = 1024 * 1024;

/** What a service allows unless its manifest says otherwise. */
export const argsBytesDefault = 1024 * 1024;
export const resultBytesDefault = 1024 * 1024;
export const messageBytesDefault = 16 * 1024 * 1024;
