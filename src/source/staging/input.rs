//! The bytes of a file that is to be staged: decompressed, without a byte order mark, and bounded for each record.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use parquet::file::reader::{ChunkReader, Length};

use super::bad_row::StageError;
use super::progress::StagingProgress;
use crate::source::file::{Root, SourceFile};

/// Largest record of a text file, in bytes.
pub(super) const MAX_RECORD_BYTES: u64 = 64_000_000;
const BUFFER_BYTES: usize = 256 * 1_024;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A file to stage. It may be read several times.
#[derive(Clone, Copy, Debug)]
pub(super) struct StagingInput<'a> {
    pub(super) root: &'a Root,
    pub(super) path: &'a str,
    pub(super) progress: &'a StagingProgress,
}

impl StagingInput<'_> {
    /// Opens the file from its beginning; decompressed if it begins as a gzip or zstd file does, whatever its name.
    ///
    /// # Errors
    /// When it cannot be opened, or is empty.
    pub(super) fn bytes(self) -> Result<BufReader<Box<dyn Read>>, StageError> {
        let file = self.root.open(self.path)?.get_read(0).map_err(io::Error::other)?;
        let mut file = BufReader::with_capacity(BUFFER_BYTES, self.progress.counted(file));
        let start = file.fill_buf()?;
        if start.is_empty() {
            return Err(StageError::Empty);
        }
        let plain: Box<dyn Read> = if start.starts_with(GZIP) {
            Box::new(MultiGzDecoder::new(file))
        } else if start.starts_with(ZSTD) {
            Box::new(zstd::Decoder::with_buffer(file)?)
        } else {
            return Ok(BufReader::with_capacity(BUFFER_BYTES, Box::new(file)));
        };
        Ok(BufReader::with_capacity(BUFFER_BYTES, plain))
    }

    /// Opens the file as it is, to read parts of it.
    ///
    /// # Errors
    /// When it cannot be opened, or is empty.
    pub(super) fn file(self) -> Result<SourceFile, StageError> {
        let file = self.root.open(self.path)?;
        if file.len() == 0 { Err(StageError::Empty) } else { Ok(file) }
    }

    /// Opens a text file behind its byte order mark.
    ///
    /// # Errors
    /// As [`StagingInput::bytes`], and when it is not UTF-8 by its first bytes.
    pub(super) fn text(self) -> Result<BufReader<Box<dyn Read>>, StageError> {
        let mut text = self.bytes()?;
        let mark = match text.fill_buf()? {
            [] => return Err(StageError::Empty),
            [0xef, 0xbb, 0xbf, ..] => 3,
            [0, 0, 0, 0, ..] => {
                let what = "it begins with zeros: it is no text file, or its content is lost";
                return Err(StageError::File(what.into()));
            }
            [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] | [_, 0, 0, 0, ..] | [0, 0, 0, _, ..] => {
                return Err(of_other_encoding("UTF-32"));
            }
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
                return Err(of_other_encoding("UTF-16"));
            }
            _ => 0,
        };
        text.consume(mark);
        Ok(text)
    }
}

fn of_other_encoding(name: &str) -> StageError {
    StageError::File(format!(
        "it is {name}, and only UTF-8 is read; convert it, as with iconv -f {name} -t UTF-8"
    ))
}

/// A reader that fails where a record takes more bytes than are allowed.
pub(super) struct BoundedReader<R> {
    inner: R,
    allowance: ByteAllowance,
}

/// The bytes that may still be read for a record.
#[derive(Clone, Debug)]
pub(super) struct ByteAllowance {
    left: Rc<Cell<u64>>,
    most: u64,
}

impl<R: Read> BoundedReader<R> {
    /// Returns the reader, and what grants each record its bytes.
    pub(super) fn new(inner: R, most: u64) -> (Self, ByteAllowance) {
        let allowance = ByteAllowance { left: Rc::new(Cell::new(most)), most };
        (BoundedReader { inner, allowance: allowance.clone() }, allowance)
    }
}

impl ByteAllowance {
    /// Begins another record.
    pub(super) fn renew(&self) {
        self.left.set(self.most);
    }

    /// Whether the last record was refused for its size.
    pub(super) fn is_spent(&self) -> bool {
        self.left.get() == 0
    }
}

impl<R: Read> Read for BoundedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.allowance.is_spent() {
            let most = self.allowance.most / 1_000_000;
            return Err(io::Error::other(format!(
                "it is larger than {most} MB; is a quote or a bracket not closed?"
            )));
        }
        let read = self.inner.read(buffer)?;
        let left = self.allowance.left.get();
        self.allowance.left.set(left.saturating_sub(read as u64));
        Ok(read)
    }
}
