//! The records of a JSON file: its lines, the elements of its array, or its values one after the other.

use std::io::{BufRead, Read};

use super::bad_row::StageError;
use super::input::MAX_RECORD_BYTES;

/// How records lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordLayout {
    Lines,
    Array,
    Values,
}

/// The text of a record, and the line on which it begins.
pub(super) struct JsonRecord<'a> {
    pub(super) line: u64,
    pub(super) text: &'a [u8],
}

/// Reader of the records of a file, with a bound on the size of each.
pub(super) struct JsonRecords<R> {
    reader: R,
    layout: RecordLayout,
    /// The present line, from 1.
    line: u64,
    text: Vec<u8>,
    /// Whether the end of the array was read.
    has_ended: bool,
    /// A first line that was read to see how records lie.
    has_first: bool,
}

impl<R: BufRead> JsonRecords<R> {
    /// Finds out how the records lie: a file that begins with a bracket is an array, one whose first line is a value
    /// has one in each line.
    pub(super) fn new(reader: R) -> Result<Self, StageError> {
        let (text, layout) = (Vec::new(), RecordLayout::Lines);
        let mut records = JsonRecords { reader, layout, line: 1, text, has_ended: false, has_first: false };
        records.skip_blanks()?;
        match records.peek()? {
            None => return Err(StageError::Empty),
            Some(b'[') => {
                records.reader.consume(1);
                records.layout = RecordLayout::Array;
            }
            Some(_) => {
                records.read_line()?;
                records.has_first = true;
                if serde_json::from_slice::<serde::de::IgnoredAny>(&records.text)
                    .is_err_and(|error| error.is_eof())
                {
                    records.layout = RecordLayout::Values;
                }
            }
        }
        Ok(records)
    }

    /// Returns the next record, or `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read, a record is too large, or the file ends in one.
    pub(super) fn next(&mut self) -> Result<Option<JsonRecord<'_>>, StageError> {
        let mut is_first = std::mem::take(&mut self.has_first);
        match self.layout {
            RecordLayout::Lines => loop {
                if !std::mem::take(&mut is_first) {
                    self.text.clear();
                    if !self.read_line()? {
                        return Ok(None);
                    }
                }
                if !self.text.trim_ascii().is_empty() {
                    // The line is that of the record, which was read to its end.
                    let line = self.line - u64::from(self.text.ends_with(b"\n"));
                    return Ok(Some(JsonRecord { line, text: &self.text }));
                }
            },
            RecordLayout::Array | RecordLayout::Values => {
                if !is_first {
                    self.text.clear();
                }
                self.next_value(is_first)
            }
        }
    }

    fn next_value(&mut self, has_begun: bool) -> Result<Option<JsonRecord<'_>>, StageError> {
        if self.has_ended {
            return Ok(None);
        }
        let mut scan = JsonScan::default();
        let line;
        if has_begun {
            line = self.line - u64::from(self.text.ends_with(b"\n"));
            for byte in &self.text {
                scan.pass(*byte);
            }
        } else {
            self.skip_blanks()?;
            while self.peek()? == Some(b',') {
                self.reader.consume(1);
                self.skip_blanks()?;
            }
            line = self.line;
            match (self.peek()?, self.layout) {
                (None, RecordLayout::Array) => {
                    return Err(StageError::File(format!(
                        "line {line}: the file ends before its array does"
                    )));
                }
                (None, _) => return Ok(None),
                (Some(b']'), RecordLayout::Array) => {
                    self.reader.consume(1);
                    self.has_ended = true;
                    self.skip_blanks()?;
                    return match self.peek()? {
                        None => Ok(None),
                        Some(_) => {
                            let line = self.line;
                            Err(StageError::File(format!("line {line}: there is more behind the array")))
                        }
                    };
                }
                _ => {}
            }
        }
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Err(StageError::File(format!(
                    "line {line}: the file ends within the row that begins here"
                )));
            }
            let mut taken = 0;
            let mut is_whole = false;
            for byte in bytes {
                if scan.is_at_top() && matches!(byte, b',' | b']' | b' ' | b'\n' | b'\r' | b'\t') {
                    is_whole = true;
                    break;
                }
                self.line += u64::from(*byte == b'\n');
                scan.pass(*byte);
                taken += 1;
                if scan.is_closed {
                    is_whole = true;
                    break;
                }
            }
            self.text.extend_from_slice(&bytes[..taken]);
            self.reader.consume(taken);
            if self.text.len() as u64 > MAX_RECORD_BYTES {
                return Err(too_large(line));
            }
            if is_whole {
                return Ok(Some(JsonRecord { line, text: &self.text }));
            }
        }
    }

    /// Appends the next line. Returns whether there is one.
    fn read_line(&mut self) -> Result<bool, StageError> {
        let most = MAX_RECORD_BYTES + 1;
        let read = self.reader.by_ref().take(most).read_until(b'\n', &mut self.text)?;
        if read as u64 == most {
            return Err(too_large(self.line));
        }
        self.line += u64::from(self.text.ends_with(b"\n"));
        Ok(read > 0)
    }

    fn peek(&mut self) -> Result<Option<u8>, StageError> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    fn skip_blanks(&mut self) -> Result<(), StageError> {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek()? {
            self.line += u64::from(byte == b'\n');
            self.reader.consume(1);
        }
        Ok(())
    }
}

fn too_large(line: u64) -> StageError {
    let most = MAX_RECORD_BYTES / 1_000_000;
    StageError::File(format!(
        "line {line}: the row that begins here is larger than {most} MB; is a quote or a bracket not closed?"
    ))
}

/// Where a scan through a value is.
#[derive(Debug, Default)]
struct JsonScan {
    depth: u32,
    is_in_text: bool,
    is_escaped: bool,
    has_begun: bool,
    /// Whether a value in brackets has ended.
    is_closed: bool,
}

impl JsonScan {
    fn is_at_top(&self) -> bool {
        self.has_begun && self.depth == 0 && !self.is_in_text
    }

    fn pass(&mut self, byte: u8) {
        self.has_begun = true;
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.is_in_text => self.is_escaped = true,
            b'"' => self.is_in_text = !self.is_in_text,
            _ if self.is_in_text => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.is_closed = self.depth == 0;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> Result<Vec<(u64, String)>, String> {
        let wrong = |error: StageError| error.to_string();
        let mut records = JsonRecords::new(text.as_bytes()).map_err(wrong)?;
        let mut found = Vec::new();
        while let Some(record) = records.next().map_err(wrong)? {
            found.push((record.line, String::from_utf8(record.text.to_vec()).unwrap().trim().to_owned()));
        }
        assert!(records.next().map_err(wrong)?.is_none(), "the end stays the end");
        Ok(found)
    }

    #[test]
    fn lines_arrays_and_values_are_told_apart() {
        let found = |text| records(text).unwrap();
        let of = |pairs: &[(u64, &str)]| {
            pairs.iter().map(|(line, text)| (*line, (*text).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(found("\n{\"a\":1}\n\n{\"a\":2}"), of(&[(2, "{\"a\":1}"), (4, "{\"a\":2}")]));
        assert_eq!(
            found("{\"a\":1}\nrubbish\n{\"a\":2}\n"),
            of(&[(1, "{\"a\":1}"), (2, "rubbish"), (3, "{\"a\":2}")])
        );
        assert_eq!(
            found("[\n{\"a\":\"}\\\"]\"},\n 7, {\"b\":\n[1]}]\n"),
            of(&[(2, "{\"a\":\"}\\\"]\"}"), (3, "7"), (3, "{\"b\":\n[1]}")])
        );
        assert_eq!(found("{\n\"a\":1}\n{\"b\":2}"), of(&[(1, "{\n\"a\":1}"), (3, "{\"b\":2}")]));
        assert_eq!(found("[]"), of(&[]));
        for (text, message) in [
            ("[{\"a\":1}", "line 1: the file ends before its array does"),
            ("[{\"a\":1}\n] x", "line 2: there is more behind the array"),
            ("[{\"a\":\n1", "line 1: the file ends within the row that begins here"),
            (" \n ", "it is empty"),
        ] {
            assert_eq!(records(text).unwrap_err(), message, "{text}");
        }
    }
}
