//! Every bound of the server, with what happens when it is passed.

/// JSON of one item. The largest todo has 63 KB (10,500 characters, each escaped to six bytes); the bound stands
/// wherever items enter a page, and a longer one there is our fault: the process ends.
pub const ITEM_JSON_BYTES_MAX: usize = 1024 * 1024;

/// Items of a page that is made by cutting a longer run. Small enough that one change copies little, large enough
/// that a list of a thousand is a handful of slices: pages of 128 made scattered changes a half dearer.
pub const PAGE_ITEMS: usize = 64;
/// A page with more items is cut.
pub const PAGE_ITEMS_MAX: usize = 96;
/// Neighbours that have no more items than this together become one page.
pub const PAGE_ITEMS_JOIN: usize = 48;

/// JSON bytes, commas included, of a page that is made by cutting a longer run.
pub const PAGE_BYTES: usize = 64 * 1024;
/// A page of two or more items that has more bytes is cut.
pub const PAGE_BYTES_MAX: usize = 96 * 1024;
/// Neighbours join only while they have no more bytes than this together.
pub const PAGE_BYTES_JOIN: usize = 48 * 1024;

/// Pages of a chunk that is made by cutting a longer run. One change copies the pointers of one chunk and of the list
/// of chunks: at a million items some 125 of each.
pub const CHUNK_PAGES: usize = 128;
/// A chunk with more pages is cut.
pub const CHUNK_PAGES_MAX: usize = 192;
/// Neighbours that have no more pages than this together become one chunk.
pub const CHUNK_PAGES_JOIN: usize = 96;

/// How far the window may outgrow its bound on items, in percent of it, before it is cut back to the bound: so that
/// not every create at the full window cuts.
pub const WINDOW_OVERSHOOT_PERCENT: u64 = 5;

// A page and the item that overfills it fit the 32-bit ends of a page.
const _: () = assert!(PAGE_BYTES_MAX + ITEM_JSON_BYTES_MAX < u32::MAX as usize);
// What was just joined is far from being cut, and what was just cut is far from being joined.
const _: () = assert!(PAGE_ITEMS_JOIN < PAGE_ITEMS && PAGE_ITEMS < PAGE_ITEMS_MAX);
const _: () = assert!(PAGE_BYTES_JOIN < PAGE_BYTES && PAGE_BYTES < PAGE_BYTES_MAX);
const _: () = assert!(CHUNK_PAGES_JOIN < CHUNK_PAGES && CHUNK_PAGES < CHUNK_PAGES_MAX);
