//! The text of a PDF's pages. It is called in a process that reads documents, since its time and memory are unbounded.

use std::sync::Arc;

use hayro_interpret::hayro_syntax::{DecryptionError, LoadPdfError, Pdf};
use hayro_interpret::kurbo::{Affine, Rect};
use hayro_interpret::{Context, InterpreterCache, InterpreterSettings, interpret_page};

use super::page_text::TextDevice;
use super::settings::TEXT_BYTES;
use super::unread::{UnreadDocument, UnreadReason};

/// A header stands within so many bytes, as in Adobe's readers.
const HEADER_BYTES: usize = 1024;

/// Returns the texts of the pages. A page without text, such as a scanned one, is an empty text.
pub(super) fn pages(document: Vec<u8>) -> Result<Vec<String>, UnreadDocument> {
    let pdf = open(document)?;
    let cache = InterpreterCache::new();
    let mut bytes = 0;
    let mut texts = Vec::new();
    for page in pdf.pages().iter() {
        let mut context = Context::new(
            Affine::IDENTITY,
            Rect::new(0.0, 0.0, 1.0, 1.0),
            &cache,
            pdf.xref(),
            InterpreterSettings::default(),
        );
        let mut text = TextDevice::new(TEXT_BYTES - bytes);
        interpret_page(page, &mut context, &mut text);
        let text = text.finish().ok_or_else(|| UnreadDocument::new(UnreadReason::TooMuchText))?;
        bytes += text.len();
        texts.push(text);
    }
    Ok(texts)
}

/// Returns the number of pages.
pub(super) fn page_count(document: Vec<u8>) -> Result<u64, UnreadDocument> {
    Ok(open(document)?.pages().len() as u64)
}

fn open(document: Vec<u8>) -> Result<Pdf, UnreadDocument> {
    let unread = UnreadDocument::new;
    let head = document.get(..HEADER_BYTES).unwrap_or(&document);
    if !head.windows(5).any(|window| window == b"%PDF-") {
        return Err(unread(UnreadReason::NotPdf));
    }
    let pdf = Pdf::new(Arc::new(document)).map_err(|error| match error {
        LoadPdfError::Decryption(DecryptionError::PasswordProtected) => {
            unread(UnreadReason::Encrypted).with_detail("a password is needed")
        }
        LoadPdfError::Decryption(_) => unread(UnreadReason::Encrypted).with_detail("in an unsupported way"),
        LoadPdfError::Invalid => unread(UnreadReason::Damaged),
    })?;
    if pdf.pages().is_empty() {
        return Err(unread(UnreadReason::Damaged).with_detail("it has no pages"));
    }
    Ok(pdf)
}
