//! A page that is being filled, within a bound of rows and one of bytes.

use super::Page;
use super::limits::page_limit;

/// Bytes of rows after which a page ends.
const PAGE_BYTES: usize = 8 << 20;

/// Rows of a page, as far as it can hold them.
pub(super) struct Filling<T> {
    items: Vec<T>,
    limit: usize,
    bytes: usize,
    more: bool,
}

impl<T> Filling<T> {
    /// An empty page of at most so many rows.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            items: Vec::new(),
            limit: page_limit(limit),
            bytes: 0,
            more: false,
        }
    }

    /// Takes a row of so many bytes, or learns from it that there is more than the page can hold; whether it took it.
    pub(super) fn take(&mut self, item: T, bytes: usize) -> bool {
        if self.items.len() >= self.limit || self.bytes >= PAGE_BYTES {
            self.more = true;
            return false;
        }
        self.bytes += bytes;
        self.items.push(item);
        true
    }

    /// Rows that are worth asking for, where none is larger than so many bytes: those that are missing, and one to know
    /// whether there are more.
    pub(super) fn wanted(&self, largest: usize) -> usize {
        let missing = self.limit.saturating_sub(self.items.len()) + 1;
        let room = PAGE_BYTES.saturating_sub(self.bytes) / largest.max(1);
        missing.min(room + 1)
    }

    /// The page; a cursor is made of its last row.
    pub(super) fn page(self, cursor: impl Fn(&T) -> String) -> Page<T> {
        let last = self.items.last().filter(|_| self.more);
        let cursor = last.map(cursor);
        Page {
            items: self.items,
            cursor,
        }
    }
}
