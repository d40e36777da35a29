//! The frame log: every message of a stream, already in WebSocket framing, so that serving it is copying ranges.
//!
//! `frames.bin` is the concatenation of server frames (RFC 6455, unmasked), whose heads are their length prefixes.
//! `frames.idx` has one [`Entry`] of 24 bytes for each number of the stream: `seq`, end offset in `frames.bin`, messages,
//! all little-endian u64. What has no number of its own (`#info`, a frame sent twice) belongs to the entry before it, so that a
//! reader that resumes after a number does not see it again.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

/// A number of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The number.
    pub seq: u64,
    /// Where its bytes end; they begin where those of the entry before end.
    pub end: u64,
    /// How many WebSocket messages it is, mostly 1.
    pub messages: u64,
}

enum Source {
    Memory(Bytes),
    File(File),
}

/// A stream that is ready to be sent.
pub struct FrameLog {
    source: Source,
    entries: Vec<Entry>,
    /// Where the numbering begins, and each entry with which it begins anew.
    beginnings: Vec<usize>,
}

/// The first entry, and all whose number is not above the one before.
fn beginnings(entries: &[Entry]) -> Vec<usize> {
    let anew = entries.windows(2).enumerate();
    let anew = anew.filter(|(_, pair)| pair[1].seq <= pair[0].seq);
    std::iter::once(0)
        .chain(anew.map(|(at, _)| at + 1))
        .collect()
}

impl FrameLog {
    /// Opens the log of a prepared folder.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut index = Vec::new();
        File::open(dir.join("frames.idx"))?.read_to_end(&mut index)?;
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let entries: Vec<Entry> = index
            .chunks_exact(24)
            .map(|row| Entry {
                seq: word(&row[..8]),
                end: word(&row[8..16]),
                messages: word(&row[16..]),
            })
            .collect();
        let file = File::open(dir.join("frames.bin"))?;
        if file.metadata()?.len() != entries.last().map_or(0, |last| last.end) {
            let text = "frames.bin and frames.idx do not belong together: prepare again";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self {
            source: Source::File(file),
            beginnings: beginnings(&entries),
            entries,
        })
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The numbers in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where the numbering begins that the last of the first `head` entries belongs to.
    pub(crate) fn beginning(&self, head: usize) -> usize {
        let at = self
            .beginnings
            .partition_point(|beginning| *beginning < head);
        at.checked_sub(1).map_or(0, |at| self.beginnings[at])
    }

    /// Index of the first entry whose number is at least `seq`, where all are of one numbering.
    pub fn position(&self, seq: u64) -> usize {
        self.position_in(0..self.len(), seq)
    }

    /// Index of the first of some entries of one numbering whose number is at least `seq`.
    pub(crate) fn position_in(&self, entries: Range<usize>, seq: u64) -> usize {
        let start = entries.start;
        start + self.entries[entries].partition_point(|entry| entry.seq < seq)
    }

    /// Where the bytes of entry `at` begin.
    pub fn start(&self, at: usize) -> u64 {
        match at {
            0 => 0,
            at => self.entries[at - 1].end,
        }
    }

    /// The bytes of some entries, in WebSocket framing.
    pub fn read(&self, entries: Range<usize>) -> io::Result<Bytes> {
        let (start, end) = (self.start(entries.start), self.start(entries.end));
        match &self.source {
            Source::Memory(bytes) => Ok(bytes.slice(start as usize..end as usize)),
            Source::File(file) => {
                let mut bytes = vec![0; (end - start) as usize];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
        }
    }

    /// The payloads of the messages of one entry (text messages and broken frames included as far as they have one).
    pub fn payloads(&self, entry: usize) -> io::Result<Vec<Bytes>> {
        let mut wire = self.read(entry..entry + 1)?;
        let mut payloads = Vec::new();
        while wire.len() >= 2 {
            let (head, len) = match wire[1] & 0x7f {
                126 if wire.len() >= 4 => (4, u64::from(u16::from_be_bytes([wire[2], wire[3]]))),
                127 if wire.len() >= 10 => (
                    10,
                    u64::from_be_bytes(wire[2..10].try_into().unwrap_or_default()),
                ),
                len => (2, u64::from(len)),
            };
            let end = (head + len as usize).min(wire.len());
            payloads.push(wire.slice(head.min(end)..end));
            wire = wire.slice(end..);
        }
        Ok(payloads)
    }
}

/// Appends a binary message in server framing.
pub fn frame(out: &mut Vec<u8>, payload: &[u8]) {
    frame_with(out, 0x82, payload);
}

/// Appends a message whose first byte (FIN, RSV, opcode) is given: 0x81 text, 0x82 binary.
pub fn frame_with(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.push(first);
    match payload.len() {
        len @ 0..=125 => out.push(len as u8),
        len @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// Writes a log.
pub(crate) struct LogWriter {
    sink: Sink,
    end: u64,
    entries: Vec<Entry>,
}

enum Sink {
    Memory(Vec<u8>),
    Files {
        frames: BufWriter<File>,
        index: BufWriter<File>,
    },
}

impl LogWriter {
    pub(crate) fn in_memory() -> Self {
        Self {
            sink: Sink::Memory(Vec::new()),
            end: 0,
            entries: Vec::new(),
        }
    }

    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let frames = BufWriter::with_capacity(4 << 20, File::create(dir.join("frames.bin"))?);
        let index = BufWriter::with_capacity(1 << 20, File::create(dir.join("frames.idx"))?);
        Ok(Self {
            sink: Sink::Files { frames, index },
            end: 0,
            entries: Vec::new(),
        })
    }

    /// Adds an entry of `messages` messages that are framed already.
    pub(crate) fn add(&mut self, seq: u64, wire: &[u8], messages: u64) -> io::Result<()> {
        self.end += wire.len() as u64;
        let entry = Entry {
            seq,
            end: self.end,
            messages,
        };
        match &mut self.sink {
            Sink::Memory(all) => {
                all.extend_from_slice(wire);
                self.entries.push(entry);
            }
            Sink::Files { frames, index } => {
                frames.write_all(wire)?;
                for word in [entry.seq, entry.end, entry.messages] {
                    index.write_all(&word.to_le_bytes())?;
                }
            }
        }
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.end
    }

    /// Ends the log; one in memory can be served.
    pub(crate) fn finish(self) -> io::Result<FrameLog> {
        let source = match self.sink {
            Sink::Memory(all) => Source::Memory(all.into()),
            Sink::Files {
                mut frames,
                mut index,
            } => {
                frames.flush()?;
                index.flush()?;
                Source::Memory(Bytes::new())
            }
        };
        Ok(FrameLog {
            source,
            beginnings: beginnings(&self.entries),
            entries: self.entries,
        })
    }
}
