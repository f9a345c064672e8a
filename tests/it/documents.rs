//! Documents in SQL: functions over real PDFs and HTML, documents that cannot be read, and the table of files.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::prelude::SessionContext;
use enrich::documents::{
    DocumentSettings, DocumentTable, OnUnread, READER_COMMAND, UnreadDocuments, UnreadReason, register,
};
use flate2::Compression;
use flate2::write::ZlibEncoder;

fn settings() -> DocumentSettings {
    DocumentSettings { program: Some(env!("CARGO_BIN_EXE_enrich").into()), ..DocumentSettings::default() }
}

fn top(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(top("tests/documents").join(name)).unwrap()
}

/// A session with the functions, and what it could not read.
struct Session {
    context: SessionContext,
    unread: UnreadDocuments,
}

impl Session {
    fn new(settings: &DocumentSettings) -> Self {
        let context = SessionContext::new();
        let unread = register(&context, settings);
        Session { context, unread }
    }

    /// A session with a table `given` of documents, in a column `document`.
    fn of(settings: &DocumentSettings, documents: &[Option<&[u8]>]) -> Self {
        let session = Session::new(settings);
        let column: ArrayRef = Arc::new(BinaryArray::from(documents.to_vec()));
        let names = (0..documents.len()).map(|index| format!("document {index}"));
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(names));
        let batch = RecordBatch::try_from_iter([("name", names), ("document", column)]).unwrap();
        session.context.register_batch("given", batch).unwrap();
        session
    }

    async fn try_column(&self, sql: &str) -> Result<ArrayRef, String> {
        let frame = self.context.sql(sql).await.map_err(|error| error.to_string())?;
        let schema = Arc::clone(frame.schema().inner());
        let batches = frame.collect().await.map_err(|error| error.to_string())?;
        Ok(Arc::clone(arrow::compute::concat_batches(&schema, &batches).unwrap().column(0)))
    }

    async fn column(&self, sql: &str) -> ArrayRef {
        self.try_column(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn texts(&self, sql: &str) -> Vec<Option<String>> {
        let column = arrow::compute::cast(&self.column(sql).await, &DataType::Utf8).unwrap();
        column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
    }

    async fn numbers(&self, sql: &str) -> Vec<Option<i64>> {
        self.column(sql).await.as_primitive::<Int64Type>().iter().collect()
    }

    /// The reasons, each with the number of documents.
    fn reasons(&self) -> Vec<(UnreadReason, u64)> {
        self.unread.take().counts.into_iter().collect()
    }
}

fn some<T: Debug + Clone>(values: &[Option<T>]) -> Vec<T> {
    values.iter().cloned().map(|value| value.expect("a document is read")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_pdfs_are_those_that_their_makers_wrote() {
    let names = [
        "scripts.pdf",
        "report.pdf",
        "turned.pdf",
        "figure.pdf",
        "cairo.pdf",
        "streams.pdf",
        "encrypted.pdf",
    ];
    let documents: Vec<Vec<u8>> = names.iter().map(|name| file(name)).collect();
    let documents: Vec<Option<&[u8]>> = documents.iter().map(|document| Some(document.as_slice())).collect();
    let session = Session::of(&settings(), &documents);

    let report = "Quarterly report\nThe first paragraph is long enough to be broken into two lines of the page, \
                  which it is here, after\nsome twenty words.\nRegion Revenue\nNorth 1,200\nSouth 950";
    assert_eq!(
        some(&session.texts("SELECT pdf_text(document) FROM given").await),
        [
            "Ünïcödé façade, 1 234,50 €\nΕλληνικά κείμενα\nРусский текст\u{c}Tiếng Việt\nქართული",
            report,
            "Turned by ninety degrees\n\nRecognized in a scan\u{c}",
            "Figure of 2024: plus 12 %",
            "Drawn by Cairo\non two lines",
            report,
            report,
        ]
    );
    let counts = session.numbers("SELECT pdf_page_count(document) FROM given").await;
    assert_eq!(some(&counts), [2, 1, 2, 1, 1, 1, 1]);
    let pages =
        session.texts("SELECT unnest(pdf_pages(document)) FROM given WHERE name = 'document 0'").await;
    assert_eq!(
        some(&pages),
        ["Ünïcödé façade, 1 234,50 €\nΕλληνικά κείμενα\nРусский текст", "Tiếng Việt\nქართული"]
    );
    assert!(session.reasons().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_forms_of_bytes_and_texts_are_taken_and_null_gives_null() {
    let report = file("report.pdf");
    let session = Session::of(&settings(), &[Some(&report), None]);
    for form in ["Binary", "LargeBinary", "BinaryView"] {
        let document = format!("arrow_cast(document, '{form}')");
        let counts = session.numbers(&format!("SELECT pdf_page_count({document}) FROM given")).await;
        assert_eq!(counts, [Some(1), None], "{form}");
        let texts = session.texts(&format!("SELECT pdf_text({document}, name) FROM given")).await;
        assert!(texts[0].as_ref().unwrap().starts_with("Quarterly report") && texts[1].is_none(), "{form}");
        let lists = session.column(&format!("SELECT pdf_pages({document}) FROM given")).await;
        assert_eq!((lists.is_null(0), lists.is_null(1)), (false, true), "{form}");
    }
    for form in ["Utf8", "LargeUtf8", "Utf8View", "Binary", "Dictionary(Int32, Utf8)"] {
        let html = format!("arrow_cast('<p>A&amp;B', '{form}')");
        assert_eq!(session.texts(&format!("SELECT html_text({html})")).await, [Some("A&B".to_owned())]);
    }
    for form in ["Utf8", "LargeUtf8", "Utf8View"] {
        let chunks =
            session.texts(&format!("SELECT unnest(chunk(arrow_cast('one two', '{form}'), 4, 0))")).await;
        assert_eq!(chunks, [Some("one two".to_owned())]);
    }
    for null in [
        "html_text(NULL)",
        "pdf_text(NULL)",
        "chunk(NULL, 10, 2)",
        "chunk('a', NULL, 2)",
        "chunk('a', 10, 2, NULL)",
    ] {
        assert!(session.column(&format!("SELECT {null}")).await.is_null(0), "{null}");
    }
    assert!(session.reasons().is_empty(), "null is no document");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_document_is_null_with_its_reason_and_the_others_are_read() {
    let (report, password) = (file("report.pdf"), file("password.pdf"));
    let large = [report.as_slice(), &vec![b' '; 3 << 20]].concat();
    let documents: [&[u8]; 7] = [
        b"",
        b"<html>",
        b"%PDF-1.7\nnothing of a file",
        &password,
        &large,
        &report[..report.len() / 4],
        &report,
    ];
    let documents = documents.map(Some);
    let small = DocumentSettings { document_bytes: 2 << 20, ..settings() };
    let session = Session::of(&small, &documents);
    let counts = session.numbers("SELECT pdf_page_count(document, name) FROM given").await;
    assert_eq!(counts, [None, None, None, None, None, None, Some(1)]);
    let report_of = session.unread.take();
    assert_eq!(
        report_of.counts.into_iter().collect::<Vec<_>>(),
        [
            (UnreadReason::Empty, 1),
            (UnreadReason::NotPdf, 1),
            (UnreadReason::Damaged, 2),
            (UnreadReason::Encrypted, 1),
            (UnreadReason::TooLarge, 1),
        ]
    );
    let mut said: Vec<String> = report_of.examples.iter().map(ToString::to_string).collect();
    said.sort();
    assert_eq!(said[3], "document 3 cannot be read: it is encrypted (a password is needed)");

    let html = session.column("SELECT html_text(X'C3')").await;
    assert!(html.is_null(0));
    assert_eq!(session.reasons(), [(UnreadReason::NotUtf8, 1)]);

    let stopping = DocumentSettings { on_unread: OnUnread::Stop, ..settings() };
    let session = Session::of(&stopping, &documents);
    let error = session.try_column("SELECT pdf_text(document, name) FROM given").await.unwrap_err();
    assert!(error.contains("document 0 cannot be read: it is empty"), "{error}");
    assert!(session.reasons().is_empty());
}

/// A file of objects with the numbers 1, 2 and so on; the first one is its root.
fn pdf(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"%PDF-1.7\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (index, object) in objects.iter().enumerate() {
        table.push_str(&format!("{:010} 00000 n \n", file.len()));
        file.extend([format!("{} 0 obj\n", index + 1).as_bytes(), object, b"\nendobj\n"].concat());
    }
    let at = file.len();
    let size = objects.len() + 1;
    file.extend(
        format!("{table}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{at}\n%%EOF\n").into_bytes(),
    );
    file
}

fn stream(entries: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("<< /Length {} {entries} >>\nstream\n", content.len());
    [head.as_bytes(), content, b"\nendstream"].concat()
}

/// A file of one page with this content, these resources, and further objects from number 5 on.
fn page(content: Vec<u8>, resources: &str, more: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut objects = vec![
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>".to_vec(),
        format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 500 500] /Contents 4 0 R \
             /Resources << /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> {resources} >> >>"
        )
        .into_bytes(),
        content,
    ];
    objects.extend(more);
    pdf(&objects)
}

/// Forms that draw the next form ten times each: a page of ten to the power of ten texts.
fn endless() -> Vec<u8> {
    let form = |index: usize| {
        let content = "/X Do\n".repeat(10);
        let resources = format!("/Resources << /XObject << /X {} 0 R >> >>", index + 6);
        stream(&format!("/Type /XObject /Subtype /Form /BBox [0 0 9 9] {resources}"), content.as_bytes())
    };
    let last = stream("/Type /XObject /Subtype /Form /BBox [0 0 9 9]", b"BT /F 9 Tf (x) Tj ET 0 0 1 1 re f");
    page(stream("", b"/X Do"), "/XObject << /X 5 0 R >>", (0..10).map(form).chain([last]))
}

fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A page of a quarter of a gigabyte in less than a kilobyte.
fn inflating() -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let spaces = vec![b' '; 1 << 20];
    for _ in 0..256 {
        encoder.write_all(&spaces).unwrap();
    }
    let twice = deflated(&encoder.finish().unwrap());
    page(stream("/Filter [/FlateDecode /FlateDecode]", &twice), "", [])
}

/// The processes that were started with this limit of memory, which the test alone uses.
fn processes_with(memory_bytes: u64) -> usize {
    let asked = format!("{READER_COMMAND}\0{memory_bytes}\0");
    let lines = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(&asked)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_never_ends_is_given_up_and_the_next_one_is_read() {
    let (report, endless) = (file("report.pdf"), endless());
    let one = DocumentSettings {
        processes: NonZeroUsize::MIN,
        time_limit: Duration::from_secs(3),
        memory_bytes: (512 << 20) + 1,
        ..settings()
    };
    let session = Session::of(&one, &[Some(&report), Some(&endless), Some(&report)]);
    let texts = session.texts("SELECT pdf_text(document) FROM given").await;
    assert_eq!(texts.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(session.reasons(), [(UnreadReason::TimedOut, 1)]);
    assert_eq!(processes_with(one.memory_bytes), 1);
    drop(session);
    assert_eq!(processes_with(one.memory_bytes), 0, "they end with the session");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_eat_memory_or_stack_end_their_process_alone() {
    let report = file("report.pdf");
    let inflating = inflating();
    let color = |number: usize| format!("[/Indexed {} 0 R 1 <000000000000>]", number + 1).into_bytes();
    let deep =
        page(stream("", b"/C cs 0 sc 0 0 9 9 re f"), "/ColorSpace << /C 5 0 R >>", (5..60_000).map(color));
    let settings = DocumentSettings {
        processes: NonZeroUsize::MIN,
        time_limit: Duration::from_secs(300),
        memory_bytes: (128 << 20) + 2,
        ..settings()
    };
    let documents = [&report, &inflating, &report, &deep, &report].map(|document| Some(document.as_slice()));
    let session = Session::of(&settings, &documents);
    let texts = session.texts("SELECT pdf_text(document, name) FROM given").await;
    assert_eq!(texts.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, false, true]);
    assert_eq!(session.reasons(), [(UnreadReason::Exhausted, 2)]);
    assert_eq!(processes_with(settings.memory_bytes), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_documents_are_read_or_given_up_within_bounds() {
    let report = file("report.pdf");
    let nested = format!("/Odd {}1{}", "[".repeat(1_000), "]".repeat(1_000));
    let nested = page(stream("", b"BT /F 9 Tf 10 10 Td (nested) Tj ET"), &nested, []);
    let nested_content = format!("{}{} BT /F 9 Tf (x) Tj ET", "[".repeat(100_000), "]".repeat(100_000));
    let nested_content = page(stream("", nested_content.as_bytes()), "", []);
    let own_child = pdf(&[
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        b"<< /Type /Pages /Count 1 /Kids [2 0 R 2 0 R] >>".to_vec(),
    ]);
    let own_form = page(
        stream("", b"/X Do"),
        "/XObject << /X 5 0 R >>",
        [stream(
            "/Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 5 0 R >> >>",
            b"/X Do /X Do /X Do",
        )],
    );
    let long = [b"BT /F 9 Tf (".to_vec(), vec![b'x'; 50 << 20], b") Tj ET".to_vec()].concat();
    let long = page(stream("", &long), "", []);
    let one =
        DocumentSettings { processes: NonZeroUsize::MIN, time_limit: Duration::from_secs(3), ..settings() };
    for document in [nested, nested_content, own_child, own_form, long] {
        let session = Session::of(&one, &[Some(&document), Some(&report)]);
        let texts = session.texts("SELECT pdf_text(document) FROM given").await;
        let reasons = session.reasons();
        println!("{} bytes: {:?} {reasons:?}", document.len(), texts[0].as_ref().map(String::len));
        assert_eq!(texts[0].is_none(), reasons.len() == 1);
        assert!(texts[1].is_some());
    }
}

#[test]
fn a_reader_ends_with_its_input_even_while_it_reads() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_enrich"))
        .args([READER_COMMAND, &(512_u64 << 20).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 16]).unwrap();
    let (endless, mut input) = (endless(), child.stdin.take().unwrap());
    input.write_all(&u32::try_from(endless.len() + 1).unwrap().to_le_bytes()).unwrap();
    input.write_all(&[0]).unwrap();
    input.write_all(&endless).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_reads_no_documents_is_an_error_of_the_query() {
    let report = file("report.pdf");
    for (program, expected) in [
        ("/bin/true", "/bin/true does not read documents"),
        ("/nowhere/enrich", "/nowhere/enrich cannot be started to read documents"),
    ] {
        let other = DocumentSettings { program: Some(program.into()), ..settings() };
        let session = Session::of(&other, &[Some(&report)]);
        let error = session.try_column("SELECT pdf_text(document) FROM given").await.unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert!(session.reasons().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_documents_are_read_by_as_many_processes_as_are_allowed() {
    let report = file("report.pdf");
    let two = DocumentSettings {
        processes: NonZeroUsize::new(2).unwrap(),
        memory_bytes: (512 << 20) + 3,
        ..settings()
    };
    let session = Session::of(&two, &vec![Some(report.as_slice()); 200]);
    for _ in 0..2 {
        let counts = session.numbers("SELECT pdf_page_count(document) FROM given").await;
        assert_eq!(counts, vec![Some(1); 200]);
        assert!((1..=2).contains(&processes_with(two.memory_bytes)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_become_rows_and_wrong_sizes_are_errors_of_the_plan() {
    let session = Session::new(&settings());
    let chunks = session
        .texts(
            "SELECT unnest(chunk(text, 4, 1, 'gpt-4o')) FROM (VALUES ('one two three four five')) AS t(text)",
        )
        .await;
    assert_eq!(some(&chunks), ["one two three four", " four five"]);
    for (arguments, expected) in [
        ("'a', 0, 0", "0 tokens are too few"),
        ("'a', 10, 10", "chunks of 10 tokens cannot overlap by 10"),
        ("'a', 10, 2, 'no-such-model'", "the encoding of the model \"no-such-model\" is unknown"),
        ("'a', 'ten', 2", "is no number of tokens"),
        ("'a'", "chunk takes a text"),
        ("1, 10, 2", "is no text"),
    ] {
        let planned = session.context.sql(&format!("SELECT chunk({arguments})")).await;
        let error = planned.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let of_rows = "SELECT chunk('a', size, 5) FROM (VALUES (10), (5)) AS t(size)";
    let error = session.try_column(of_rows).await.unwrap_err();
    assert!(error.contains("cannot overlap by 5"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_a_table_by_path_and_are_read_where_content_is_selected() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &[u8]| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let report = file("report.pdf");
    for path in ["docs/b.pdf", "docs/2020/a [1].pdf", "docs/2020/é.pdf", "docs/a.txt", "docs/.hidden/c.pdf"]
    {
        write(path, &report);
    }
    write("docs/2020/large.pdf", &vec![0; 5_000]);
    std::os::unix::fs::symlink(folder.path().join("docs"), folder.path().join("docs/2020/again")).unwrap();

    let small = DocumentSettings { document_bytes: 4_000, ..settings() };
    let session = Session::new(&small);
    let open = async |glob: &str| DocumentTable::open(glob, folder.path(), &small, &session.unread).await;
    let table = Arc::new(open("docs/**/*.pdf").await.unwrap());
    session.context.register_table("documents", table).unwrap();
    let paths = ["docs/2020/a [1].pdf", "docs/2020/large.pdf", "docs/2020/é.pdf", "docs/b.pdf"];
    assert_eq!(some(&session.texts("SELECT path FROM documents").await), paths);
    assert_eq!(session.numbers("SELECT count(*) FROM documents").await, [Some(4)]);
    let sizes = session.numbers("SELECT size FROM documents WHERE path LIKE '%.pdf' ORDER BY path").await;
    let size = i64::try_from(report.len()).unwrap();
    assert_eq!(some(&sizes), [size, 5_000, size, size]);
    let modified =
        "SELECT count(*) FROM documents WHERE modified BETWEEN now() - INTERVAL '1 hour' AND now()";
    assert_eq!(session.numbers(modified).await, [Some(4)]);
    assert!(session.reasons().is_empty(), "no content was read");

    std::fs::remove_file(folder.path().join("docs/b.pdf")).unwrap();
    let counts = session.numbers("SELECT pdf_page_count(content, path) FROM documents ORDER BY path").await;
    assert_eq!(counts, [Some(1), None, Some(1), None]);
    let report = session.unread.take();
    assert_eq!(
        report.examples.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "docs/2020/large.pdf cannot be read: it is too large",
            "docs/b.pdf cannot be read: its file is gone or may not be read",
        ]
    );

    for (glob, expected) in [
        ("docs/*.docx", "files = \"docs/*.docx\" matches no file: looked for \"*.docx\" in "),
        ("nothing/*.pdf", "nothing cannot be listed"),
        ("docs/[a", "is no pattern of files"),
        ("ftp://host/*.pdf", "not with ftp"),
    ] {
        let error = open(glob).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(open("docs/2020/é.pdf").await.is_ok(), "a path without wildcards");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contracts_of_the_example_are_read_page_by_page() {
    let session = Session::new(&settings());
    let table =
        DocumentTable::open("contracts/pdf/*.pdf", &top("examples"), &settings(), &session.unread).await;
    session.context.register_table("contracts", Arc::new(table.unwrap())).unwrap();
    let counts = session.numbers("SELECT pdf_page_count(content) FROM contracts ORDER BY path").await;
    assert_eq!(some(&counts), [1, 2, 3].repeat(4));
    let pages = session.texts("SELECT unnest(pdf_pages(content)) FROM contracts").await;
    assert_eq!(pages.len(), 24);
    let of_pages = some(&pages);
    assert!(of_pages.iter().all(|page| page.contains("Page ") && !page.contains('\u{fffd}')));
    assert!(of_pages.iter().filter(|page| page.contains("signed on")).count() == 12);
    assert!(of_pages.iter().any(|page| page.contains('€') && page.contains("GmbH")));
}
