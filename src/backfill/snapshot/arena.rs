//! Bytes that are only appended: in memory as long as the budget gives some, else in a temporary file.
//!
//! One line of bytes, cut into chunks of [`CHUNK`]. Chunk k is in memory, or in the file at k times [`CHUNK`]. The last chunk is always in
//! memory; full and without a successor's memory, it is written to the file and its memory is used for the next.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::SnapshotError;
use super::budget::Share;

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;
/// Bytes that the first chunk begins with: many repositories are small.
const FIRST: usize = 16 << 10;

/// A range of an [`Arena`]: 42 bits of position and 22 bits of length. Never zero, so that an `Option` of it takes 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(NonZero<u64>);

/// Bytes of the longest range that a [`Place`] can name.
pub(super) const MAX_PLACE: u64 = (1 << 22) - 1;
/// Bytes of the longest arena whose ranges a [`Place`] can name.
pub(super) const MAX_ARENA: u64 = 1 << 42;

impl Place {
    /// A range, within [`MAX_PLACE`] and [`MAX_ARENA`].
    pub fn new(start: u64, len: u64) -> Self {
        Self(NonZero::<u64>::MIN.saturating_add(start << 22 | len & MAX_PLACE))
    }

    fn bits(self) -> u64 {
        self.0.get() - 1
    }

    pub fn start(self) -> u64 {
        self.bits() >> 22
    }

    pub fn len(self) -> usize {
        usize::try_from(self.bits() & MAX_PLACE).unwrap_or_default()
    }

    /// Its first `bytes`, and what follows them.
    pub fn split(self, bytes: usize) -> (Self, Self) {
        let (first, len) = (bytes.min(self.len()) as u64, self.len() as u64);
        let after = Self::new(self.start() + first, len - first);
        (Self::new(self.start(), first), after)
    }
}

/// The bytes.
#[derive(Debug)]
pub(super) struct Arena {
    /// Those that are in the file are none.
    chunks: Vec<Option<Vec<u8>>>,
    last: Vec<u8>,
    /// Bytes that the last chunk may have by now.
    room: usize,
    len: u64,
    file: Option<File>,
    folder: PathBuf,
}

impl Arena {
    /// An empty one, whose temporary file, if it needs one, is made in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            chunks: Vec::new(),
            last: Vec::new(),
            room: 0,
            len: 0,
            file: None,
            folder,
        }
    }

    /// How many bytes were appended.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether some of it is in a file.
    pub fn spilled(&self) -> bool {
        self.file.is_some()
    }

    /// Appends bytes.
    pub fn append(&mut self, mut bytes: &[u8], share: &mut Share) -> Result<(), SnapshotError> {
        while !bytes.is_empty() {
            if self.last.len() == self.room {
                self.make_room(share)?;
            }
            let room = self.room - self.last.len();
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.last.extend_from_slice(now);
            self.len += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Makes room in the last chunk, which is full.
    fn make_room(&mut self, share: &mut Share) -> Result<(), SnapshotError> {
        let old = self.room;
        if old < CHUNK {
            let new = if old == 0 { FIRST } else { CHUNK };
            // Both are there while one is copied to the other.
            if !share.try_take(new as u64) {
                return Err(SnapshotError::NoMemory);
            }
            let mut larger = Vec::with_capacity(new);
            larger.extend_from_slice(&self.last);
            self.last = larger;
            self.room = new;
            share.give_back(old as u64);
        } else if share.try_take(CHUNK as u64) {
            let next = Vec::with_capacity(CHUNK);
            self.chunks
                .push(Some(std::mem::replace(&mut self.last, next)));
        } else {
            let at = self.chunks.len();
            write_chunk(&mut self.file, &self.folder, at, &self.last, share)?;
            self.chunks.push(None);
            self.last.clear();
        }
        Ok(())
    }

    /// Writes all chunks but the last to the file, and gives their memory back.
    pub fn spill(&mut self, share: &mut Share) -> Result<(), SnapshotError> {
        for (at, chunk) in self.chunks.iter_mut().enumerate() {
            if let Some(bytes) = chunk {
                write_chunk(&mut self.file, &self.folder, at, bytes, share)?;
                *chunk = None;
                share.give_back(CHUNK as u64);
            }
        }
        Ok(())
    }

    fn chunk(&self, at: usize) -> Option<&[u8]> {
        if at == self.chunks.len() {
            return Some(&self.last);
        }
        self.chunks.get(at)?.as_deref()
    }

    /// The bytes of a range that is in one chunk in memory.
    #[inline]
    fn slice(&self, place: Place) -> Option<&[u8]> {
        let (chunk, from) = split(place.start());
        self.chunk(chunk)?.get(from..from + place.len())
    }

    /// The bytes of a range, which [`Arena::load`] may have put into a buffer.
    #[inline]
    pub fn loaded<'a>(&'a self, place: Place, buffer: &'a [u8]) -> &'a [u8] {
        self.slice(place).unwrap_or(buffer)
    }

    /// Reads a range into a buffer, if it is not in one chunk in memory.
    #[inline]
    pub fn load(&self, place: Place, buffer: &mut Vec<u8>) -> io::Result<()> {
        match self.slice(place) {
            Some(_) => Ok(()),
            None => self.read(place, buffer),
        }
    }

    /// Reads a range from wherever it is.
    fn read(&self, place: Place, into: &mut Vec<u8>) -> io::Result<()> {
        into.clear();
        into.resize(place.len(), 0);
        let mut rest = into.as_mut_slice();
        let mut position = place.start();
        while !rest.is_empty() {
            let (chunk, from) = split(position);
            let now = rest.len().min(CHUNK - from);
            let (to, later) = rest
                .split_at_mut_checked(now)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            match (self.chunk(chunk), &self.file) {
                (Some(bytes), _) => to.copy_from_slice(
                    bytes
                        .get(from..from + now)
                        .ok_or(io::ErrorKind::UnexpectedEof)?,
                ),
                (None, Some(file)) => file.read_exact_at(to, position)?,
                (None, None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            position += now as u64;
            rest = later;
        }
        Ok(())
    }
}

/// The chunk of a position, and where in it.
fn split(position: u64) -> (usize, usize) {
    let chunk = CHUNK as u64;
    let at = usize::try_from(position / chunk).unwrap_or(usize::MAX);
    (at, usize::try_from(position % chunk).unwrap_or_default())
}

fn write_chunk(
    file: &mut Option<File>,
    folder: &Path,
    at: usize,
    bytes: &[u8],
    share: &mut Share,
) -> io::Result<()> {
    if !share.try_take_disk(CHUNK as u64) {
        let why = "other repositories take all that temporary files may";
        return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
    }
    let file = match file {
        Some(file) => file,
        none => none.insert(tempfile::tempfile_in(folder)?),
    };
    file.write_all_at(bytes, at as u64 * CHUNK as u64)
}
