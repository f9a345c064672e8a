//! The command `enrich export`: writes rows of the target to files.

use std::io;

use clap::Args;
use clap::builder::PossibleValuesParser;
use console::Term;
use indicatif::{HumanBytes, HumanCount};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, misuse};
use super::job::JobArguments;
use super::output;
use crate::config::Keys;
use crate::export::{
    CellStyle, Destination, Export, ExportError, ExportFormat, Exported, FormulaCells, TextReader,
};
use crate::sink::{ErrorRows, RowChoice, TargetRows};
use crate::store::ExistingFile;
use crate::wording::counted;

/// Size of the files of a folder, unless `--file-size` is given.
const FILE_SIZE: &str = "256MB";

#[derive(Debug, Args)]
pub(super) struct ExportArguments {
    #[command(flatten)]
    job: JobArguments,
    /// A file, whose ending is its format; a folder, which ends in /; or - for standard output. Folders and files may be
    /// URLs of an object store
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// Format of the files [default: by the file's ending; in a folder, parquet]
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    format: Option<String>,
    /// Columns of the target, in this order [default: all but the metadata column]
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Only rows that meet this condition over the target's columns
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    /// Leave out the rows in which a step failed
    #[arg(long)]
    without_errors: bool,
    /// Replace the file if it is there
    #[arg(long)]
    overwrite: bool,
    /// In a folder: the size at which a file ends and another one begins [default: 256MB]
    #[arg(long, value_name = "SIZE")]
    file_size: Option<bytesize::ByteSize>,
    /// With csv and tsv: put a ' before text that a spreadsheet would take for a formula; without it text is unchanged
    #[arg(long)]
    escape_formulas: bool,
}

fn formats() -> PossibleValuesParser {
    PossibleValuesParser::new(ExportFormat::ALL.map(ExportFormat::name))
}

pub(super) async fn export(arguments: ExportArguments) -> anyhow::Result<Exit> {
    let job = arguments.job.load(Keys::Unneeded)?;
    let export = plan(&arguments)?;
    export.destination.check(&job, export.existing).await?;
    let choice = RowChoice {
        columns: arguments.columns,
        condition: arguments.condition,
        error_rows: if arguments.without_errors { ErrorRows::LeftOut } else { ErrorRows::Read },
    };
    let at = job.target.location.clone();
    let opened = TargetRows::open(&job, &choice).await.map_err(ExportError::Rows)?;
    let Some(rows) = opened else { return Err(ExportError::NoTarget { at }.into()) };
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            // Without a handler the signal ends the process itself.
            Ok(()) = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    let exported = match export.run(&rows, Box::new(io::stdout()), stop).await {
        Err(error @ ExportError::Interrupted) => {
            output::talk(error.to_string());
            return Ok(Exit::Interrupted);
        }
        Err(error @ ExportError::ReaderClosed { .. }) => {
            output::talk(error.to_string());
            return Ok(Exit::Done);
        }
        exported => exported?,
    };
    let (number, version) = (rows_of(&exported, rows.all_rows()), rows.version());
    let written = written(&exported, &export.destination);
    output::talk(format!("done: {number} of version {version} of {at} exported{written}"));
    Ok(Exit::Done)
}

/// Returns the number of exported rows, beside that of all rows if that is known.
fn rows_of(exported: &Exported, all: Option<u64>) -> String {
    match all {
        Some(all) => format!("{} of {}", HumanCount(exported.rows), counted(all, "row")),
        None => counted(exported.rows, "row"),
    }
}

fn written(exported: &Exported, destination: &Destination) -> String {
    let bytes = HumanBytes(exported.bytes);
    match destination {
        Destination::StandardOutput => format!(", {bytes}"),
        Destination::File(at) => format!(" to {at}, {bytes}"),
        Destination::Folder(at) => format!(" to {at}, {}, {bytes}", counted(exported.files, "file")),
    }
}

/// Returns the export that the arguments describe.
fn plan(arguments: &ExportArguments) -> anyhow::Result<Export> {
    let named = arguments.format.as_deref().and_then(ExportFormat::named);
    let (destination, format) = Destination::parse(&arguments.to, &std::env::current_dir()?, named)?;
    let is_shown = destination == Destination::StandardOutput && Term::stdout().is_term();
    if is_shown && !format.is_plain_text() {
        misuse!("{format} is no text for a terminal; name a file");
    }
    if arguments.escape_formulas && !format.has_cells() {
        misuse!("--escape-formulas goes with csv and tsv");
    }
    let is_folder = matches!(destination, Destination::Folder(_));
    if arguments.overwrite && !matches!(destination, Destination::File(_)) {
        misuse!("--overwrite replaces a file; a folder must be empty");
    }
    if arguments.file_size.is_some() && !is_folder {
        misuse!("--file-size goes with a folder, whose name ends in /");
    }
    if let Some(columns) = &arguments.columns
        && let Some(twice) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name))
    {
        misuse!("--columns names {:?} twice", twice.1);
    }
    let file_size = match arguments.file_size {
        Some(size) => size,
        None => FILE_SIZE.parse().map_err(anyhow::Error::msg)?,
    };
    let formulas = if arguments.escape_formulas { FormulaCells::Escaped } else { FormulaCells::Unchanged };
    let reader = if is_shown { TextReader::Terminal } else { TextReader::Program };
    Ok(Export {
        destination,
        format,
        style: CellStyle { formulas, reader },
        existing: if arguments.overwrite { ExistingFile::Replaced } else { ExistingFile::Kept },
        file_bytes: file_size.as_u64(),
    })
}
