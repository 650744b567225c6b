/**
 * What one encoded value may hold. Whoever sends is refused what no receiver would take.
 */

/** How deep arrays and objects may nest, the outermost counted (so also the array of args). */
export const valueDepthMax = 64;

/** The most bytes that one value may encode to, whatever the limits for arguments and messages are set to. */
export const valueBytesMax = 64 * 1024 * 1024;

/**
 * The most elements of arrays and entries of objects, those of all levels together. It bounds the heap that decoding
 * takes: the bytes alone do not, since an empty object is one byte and 64 bytes of heap.
 */
export const valueElementsMax = 1024 * 1024;
