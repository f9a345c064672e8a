//! The functions that read documents, for DataFusion.

use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field};
use datafusion::common::{DataFusionError, Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::prelude::SessionContext;

use super::chunk_function::ChunkFunction;
use super::html;
use super::policy::UnreadPolicy;
use super::pool::ReaderPool;
use super::reply::{DocumentReply, DocumentRequest};
use super::settings::DocumentSettings;
use super::unread::{UnreadDocument, UnreadDocuments, UnreadReason};
use super::values::{bytes, bytes_type, column, lists, returned, text_type, texts};

/// Page break in the text of a whole PDF.
const PAGE_BREAK: &str = "\u{c}";

/// Makes the functions known to a session:
///
/// - `pdf_pages(bytes [, name])`: the texts of a PDF's pages, a list;
/// - `pdf_text(bytes [, name])`: the same as one text, with a form feed between pages;
/// - `pdf_page_count(bytes [, name])`: the number of its pages;
/// - `html_text(text or bytes [, name])`: the text of an HTML page;
/// - `chunk(text, tokens, overlap [, model])`: the text in pieces of so many tokens, a list.
///
/// Null gives null. So does a document that cannot be read: it is counted in what this returns, under the name if there
/// is one. Processes are started with the first PDF, and end with the session.
///
/// The functions of PDFs and of chunks take their time on the thread that runs the query.
#[must_use]
pub fn register(context: &SessionContext, settings: &DocumentSettings) -> UnreadDocuments {
    let unread = UnreadDocuments::default();
    let shared = Arc::new(FunctionContext {
        pool: ReaderPool::new(settings.clone()),
        processes: settings.processes,
        document_bytes: settings.document_bytes,
        policy: UnreadPolicy { unread: unread.clone(), on_unread: settings.on_unread },
    });
    for name in
        [FunctionName::PdfPages, FunctionName::PdfText, FunctionName::PdfPageCount, FunctionName::HtmlText]
    {
        let function = DocumentFunction {
            name,
            shared: Arc::clone(&shared),
            signature: Signature::user_defined(Volatility::Immutable),
        };
        context.register_udf(ScalarUDF::new_from_impl(function));
    }
    context.register_udf(ScalarUDF::new_from_impl(ChunkFunction::new(shared.policy.clone())));
    unread
}

#[derive(Debug)]
struct FunctionContext {
    pool: ReaderPool,
    processes: NonZeroUsize,
    document_bytes: usize,
    policy: UnreadPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum FunctionName {
    PdfPages,
    PdfText,
    PdfPageCount,
    HtmlText,
}

#[derive(Debug)]
struct DocumentFunction {
    name: FunctionName,
    shared: Arc<FunctionContext>,
    signature: Signature,
}

impl PartialEq for DocumentFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for DocumentFunction {}

impl Hash for DocumentFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for DocumentFunction {
    fn name(&self) -> &'static str {
        match self.name {
            FunctionName::PdfPages => "pdf_pages",
            FunctionName::PdfText => "pdf_text",
            FunctionName::PdfPageCount => "pdf_page_count",
            FunctionName::HtmlText => "html_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let [document, more @ ..] = given else {
            return plan_err!("{name} takes a document");
        };
        let document = match self.name {
            FunctionName::HtmlText => text_type(name, document).or_else(|_| bytes_type(name, document))?,
            _ => bytes_type(name, document)?,
        };
        match more {
            [] => Ok(vec![document]),
            [of_name] => Ok(vec![document, text_type(name, of_name)?]),
            _ => plan_err!("{name} takes a document and its name, and no more"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.name {
            FunctionName::PdfPages => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
            FunctionName::PdfText | FunctionName::HtmlText => DataType::Utf8,
            FunctionName::PdfPageCount => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        returned(&arguments.args, |columns| {
            let documents = bytes(&columns[0])?;
            let names = columns.get(1).map(texts).transpose()?;
            let documents = DocumentBatch { documents, names };
            match self.name {
                FunctionName::PdfPages => lists(self.shared.pages(&documents)?),
                FunctionName::PdfText => {
                    let pages = self.shared.pages(&documents)?.into_iter();
                    column(pages.map(|pages| Some(pages?.join(PAGE_BREAK))).collect())
                }
                FunctionName::PdfPageCount => {
                    let counts =
                        self.shared.read_pdfs(
                            &documents,
                            DocumentRequest::PageCount,
                            |reply| match reply {
                                DocumentReply::PageCount(count) => i64::try_from(count).ok(),
                                _ => None,
                            },
                        )?;
                    Ok(Arc::new(Int64Array::from(counts)))
                }
                FunctionName::HtmlText => column(self.shared.html_texts(&documents)?),
            }
        })
    }
}

/// DocumentBatch of a batch of rows, with their names if there are any.
struct DocumentBatch<'a> {
    documents: Vec<Option<&'a [u8]>>,
    names: Option<Vec<Option<&'a str>>>,
}

impl DocumentBatch<'_> {
    fn name(&self, index: usize) -> Option<&str> {
        self.names.as_ref()?.get(index).copied().flatten()
    }
}

impl FunctionContext {
    fn pages(&self, documents: &DocumentBatch<'_>) -> Result<Vec<Option<Vec<String>>>> {
        self.read_pdfs(documents, DocumentRequest::Pages, |reply| match reply {
            DocumentReply::Pages(pages) => Some(pages),
            _ => None,
        })
    }

    /// Asks about all documents, several at the same time, and returns what `take` makes of the replies.
    fn read_pdfs<T: Send + Sync>(
        &self,
        documents: &DocumentBatch<'_>,
        question: DocumentRequest,
        take: impl Fn(DocumentReply) -> Option<T> + Sync,
    ) -> Result<Vec<Option<T>>> {
        let there: Vec<usize> =
            (0..documents.documents.len()).filter(|index| documents.documents[*index].is_some()).collect();
        let read: Vec<OnceLock<Result<Option<T>>>> =
            documents.documents.iter().map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(index) = there.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Some(document) = documents.documents[*index] else { continue };
                let value = self.read_pdf(document, documents.name(*index), question, &take);
                if value.is_err() {
                    next.store(there.len(), Ordering::Relaxed);
                }
                let _ = read[*index].set(value);
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.processes.get().min(there.len()) {
                scope.spawn(work);
            }
            work();
        });
        // After an error the documents behind it were not read.
        let values: Result<Vec<_>> = read.into_iter().map(|read| read.into_inner().transpose()).collect();
        Ok(values?.into_iter().map(Option::flatten).collect())
    }

    fn read_pdf<T>(
        &self,
        document: &[u8],
        name: Option<&str>,
        question: DocumentRequest,
        take: impl Fn(DocumentReply) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.pool.ask(question, document).map_err(|error| DataFusionError::External(Box::new(error)))? {
            DocumentReply::Unread(unread) => self.policy.null(unread.with_name(name)),
            reply => match take(reply) {
                Some(value) => Ok(Some(value)),
                None => exec_err!("the process that reads documents answers another question"),
            },
        }
    }

    fn html_texts(&self, documents: &DocumentBatch<'_>) -> Result<Vec<Option<String>>> {
        let text = |(index, page): (usize, &Option<&[u8]>)| {
            let Some(page) = *page else { return Ok(None) };
            let reason = match std::str::from_utf8(page) {
                _ if page.len() > self.document_bytes => UnreadReason::TooLarge,
                Ok(page) => return Ok(Some(html::text_of(page))),
                Err(_) => UnreadReason::NotUtf8,
            };
            self.policy.null(UnreadDocument::new(reason).with_name(documents.name(index)))
        };
        documents.documents.iter().enumerate().map(text).collect()
    }
}
