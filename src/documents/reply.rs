//! What is said between this process and one that reads documents.
//!
//! A message is its length in four bytes, the lowest first, and its content. A request's content is one byte for the
//! question and the document; a reply's is JSON.

use std::io::{self, Error, ErrorKind, Read, Write};

use serde::{Deserialize, Serialize};

use super::settings::TEXT_BYTES;
use super::unread::UnreadDocument;

/// What a reader writes before it takes requests.
pub(super) const GREETING: &[u8; 16] = b"enrich reader 1\n";
/// Maximum length of a reply: a control character takes six bytes in JSON, and a page three more.
const MAX_REPLY_BYTES: usize = 9 * TEXT_BYTES;

/// What is asked about a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum DocumentRequest {
    Pages = 0,
    PageCount = 1,
}

/// What a reader says about a document.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum DocumentReply {
    Pages(Vec<String>),
    PageCount(u64),
    Unread(UnreadDocument),
}

/// Sends a request.
pub(super) fn write_request(
    to: &mut impl Write,
    question: DocumentRequest,
    document: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(document.len() + 1).map_err(Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&[question as u8])?;
    to.write_all(document)?;
    to.flush()
}

/// Receives a request; `None` at the end of the input.
pub(super) fn read_request(from: &mut impl Read) -> io::Result<Option<(DocumentRequest, Vec<u8>)>> {
    let mut head = [0; 5];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let [a, b, c, d, question] = head;
    let question = match question {
        0 => DocumentRequest::Pages,
        1 => DocumentRequest::PageCount,
        _ => return Err(ErrorKind::InvalidData.into()),
    };
    let length = u32::from_le_bytes([a, b, c, d]).checked_sub(1).ok_or(ErrorKind::InvalidData)?;
    Ok(Some((question, read_content(from, length as usize)?)))
}

/// Sends a reply.
pub(super) fn write_reply(to: &mut impl Write, reply: &DocumentReply) -> io::Result<()> {
    let content = serde_json::to_vec(reply)?;
    to.write_all(&u32::try_from(content.len()).map_err(Error::other)?.to_le_bytes())?;
    to.write_all(&content)?;
    to.flush()
}

/// Receives a reply.
pub(super) fn read_reply(from: &mut impl Read) -> io::Result<DocumentReply> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_REPLY_BYTES {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(serde_json::from_slice(&read_content(from, length)?)?)
}

/// Reads so many bytes, with memory for those alone that have arrived.
fn read_content(from: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(length as u64).read_to_end(&mut content)?;
    if content.len() == length { Ok(content) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::super::unread::UnreadReason;
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        let mut pipe = Vec::new();
        write_request(&mut pipe, DocumentRequest::PageCount, b"%PDF").unwrap();
        write_request(&mut pipe, DocumentRequest::Pages, b"").unwrap();
        let mut from = pipe.as_slice();
        assert_eq!(read_request(&mut from).unwrap(), Some((DocumentRequest::PageCount, b"%PDF".to_vec())));
        assert_eq!(read_request(&mut from).unwrap(), Some((DocumentRequest::Pages, Vec::new())));
        assert_eq!(read_request(&mut from).unwrap(), None);

        for reply in [
            DocumentReply::Pages(vec!["é\n\u{1}".to_owned(), String::new()]),
            DocumentReply::PageCount(3),
            DocumentReply::Unread(UnreadDocument::new(UnreadReason::Encrypted).with_detail("password")),
        ] {
            let mut pipe = Vec::new();
            write_reply(&mut pipe, &reply).unwrap();
            assert_eq!(read_reply(&mut pipe.as_slice()).unwrap(), reply);
            pipe.pop();
            assert!(read_reply(&mut pipe.as_slice()).is_err(), "a reply that is cut");
        }
        assert!(read_reply(&mut [255; 8].as_slice()).is_err(), "a reply of four gigabytes");
    }
}
