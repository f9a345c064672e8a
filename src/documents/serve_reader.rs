//! The process that reads documents for another one: requests on standard input, replies on standard output.
//!
//! It ends with its input, that is with the other process, even while it reads a document. What a document does to it is
//! the other process's to handle.

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;

use rlimit::Resource;

use super::pdf;
use super::reply::{DocumentReply, DocumentRequest, GREETING, read_request, write_reply};
use super::settings::STACK_BYTES;
use super::unread::{UnreadDocument, UnreadReason};
use crate::panics;

/// Reads documents until standard input ends. The process then has no more than `memory_bytes` of memory.
///
/// # Errors
/// When the memory cannot be limited, or a message cannot be read or written.
pub fn serve_reader(memory_bytes: u64) -> io::Result<()> {
    Resource::DATA.set(memory_bytes, memory_bytes)?;
    // A process that is ended for its memory leaves no file of it.
    Resource::CORE.set(0, 0)?;
    let (requests, received) = mpsc::sync_channel::<(DocumentRequest, Vec<u8>)>(1);
    // Not joined: the process ends without it.
    let _worker = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || -> io::Result<()> {
        let mut output = io::stdout().lock();
        output.write_all(GREETING)?;
        output.flush()?;
        for (question, document) in received {
            write_reply(&mut output, &reply_to(question, document))?;
        }
        Ok(())
    })?;
    let mut input = io::stdin().lock();
    while let Some(request) = read_request(&mut input)? {
        if requests.send(request).is_err() {
            break;
        }
    }
    Ok(())
}

fn reply_to(question: DocumentRequest, document: Vec<u8>) -> DocumentReply {
    let read = panics::catch(|| match question {
        DocumentRequest::Pages => pdf::pages(document).map(DocumentReply::Pages),
        DocumentRequest::PageCount => pdf::page_count(document).map(DocumentReply::PageCount),
    });
    match read {
        Ok(Ok(reply)) => reply,
        Ok(Err(unread)) => DocumentReply::Unread(unread),
        Err(message) => {
            DocumentReply::Unread(UnreadDocument::new(UnreadReason::Damaged).with_detail(&message))
        }
    }
}
