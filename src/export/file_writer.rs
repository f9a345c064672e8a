//! Writes the bytes of an export to its destination.

use std::io::{ErrorKind, Write};

use bytes::Bytes;

use super::destination::{Destination, folder_of};
use super::error::ExportError;
use super::format::ExportFormat;
use crate::faultpoint::{self, Side};
use crate::store::{ExistingFile, Folder, Location, NewFile, NewFolder, Objects, StoreError};
use crate::table::objects;

/// The file in a folder that says that all others are there, as Spark and Hadoop name it.
const MARKER: &str = "_SUCCESS";

/// Writes the bytes of an export to its destination, where they are once it is [finished](FileWriter::finish).
pub(super) struct FileWriter {
    place: FilePlace,
    open: Option<NewFile>,
    /// Number of files that were begun.
    pub(super) files: u64,
    /// Number of bytes in all files.
    pub(super) bytes: u64,
    /// Number of bytes in the open file.
    pub(super) file_bytes: u64,
}

enum FilePlace {
    Stream(Box<dyn Write + Send>),
    File { folder: Folder, name: String, existing: ExistingFile, at: Location },
    Folder { folder: Folder, format: ExportFormat, hidden: Option<NewFolder>, at: Location },
}

impl FileWriter {
    /// Opens a destination. `stream` is standard output.
    pub(super) async fn open(
        destination: &Destination,
        format: ExportFormat,
        existing: ExistingFile,
        stream: Box<dyn Write + Send>,
    ) -> Result<Self, ExportError> {
        let place = match destination {
            Destination::StandardOutput => FilePlace::Stream(stream),
            Destination::File(at) => {
                let (folder, name) = folder_of(at).await?;
                FilePlace::File { folder, name, existing, at: at.clone() }
            }
            Destination::Folder(at) => {
                let hidden = at.path().map(NewFolder::create).transpose()?;
                let folder = match &hidden {
                    Some(hidden) => hidden.folder(),
                    None => Folder::Remote(Objects::new(at.clone(), objects(at).await?)),
                };
                FilePlace::Folder { folder, format, hidden, at: at.clone() }
            }
        };
        let mut writer = FileWriter { place, open: None, files: 0, bytes: 0, file_bytes: 0 };
        writer.begin_file().await?;
        Ok(writer)
    }

    /// Ends the open file and begins another one.
    pub(super) async fn next_file(&mut self) -> Result<(), ExportError> {
        self.end_file().await?;
        self.begin_file().await
    }

    async fn begin_file(&mut self) -> Result<(), ExportError> {
        self.open = match &self.place {
            FilePlace::Stream(_) => None,
            FilePlace::File { folder, name, existing, .. } => {
                Some(NewFile::create(folder, name, *existing).await?)
            }
            FilePlace::Folder { folder, format, .. } => {
                let name = file_name(self.files, *format);
                Some(NewFile::create(folder, &name, ExistingFile::Kept).await?)
            }
        };
        self.files += 1;
        self.file_bytes = 0;
        Ok(())
    }

    async fn end_file(&mut self) -> Result<(), ExportError> {
        if let Some(file) = self.open.take() {
            file.finish().await?;
        }
        Ok(())
    }

    /// Appends bytes to the open file.
    ///
    /// # Errors
    /// When they cannot be written. Standard output that its reader closed is [`ErrorKind::BrokenPipe`].
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.pass("export-write", Side::Before)?;
        match (&mut self.place, &mut self.open) {
            (FilePlace::Stream(stream), _) => {
                stream.write_all(bytes).and_then(|()| stream.flush()).map_err(ExportError::StandardOutput)?;
            }
            (_, Some(file)) => file.write(bytes).await?,
            (_, None) => {}
        }
        self.bytes += bytes.len() as u64;
        self.file_bytes += bytes.len() as u64;
        self.pass("export-write", Side::After)
    }

    /// Makes everything that was written be at the destination.
    pub(super) async fn finish(&mut self) -> Result<(), ExportError> {
        self.pass("export-finish", Side::Before)?;
        self.end_file().await?;
        if let FilePlace::Folder { folder, hidden, .. } = &mut self.place {
            folder.put_unflushed(MARKER, Bytes::new()).await?;
            if let Some(hidden) = hidden.take() {
                hidden.finish()?;
            }
        }
        self.pass("export-finish", Side::After)
    }

    /// Removes what was written. A store may keep it if it cannot be reached.
    pub(super) async fn discard(self) {
        if let Some(file) = self.open {
            file.discard().await;
        }
        // A local folder is removed with its hidden name.
        if let FilePlace::Folder { folder: Folder::Remote(folder), format, .. } = self.place {
            for file in 0..self.files {
                let _ = folder.delete(&file_name(file, format)).await;
            }
        }
    }

    fn pass(&self, action: &'static str, side: Side) -> Result<(), ExportError> {
        faultpoint::pass(action, side).map_err(|error| match &self.place {
            FilePlace::Stream(_) => ExportError::StandardOutput(error),
            FilePlace::File { at, .. } | FilePlace::Folder { at, .. } => {
                StoreError::of("write", at.clone())(error).into()
            }
        })
    }
}

fn file_name(number: u64, format: ExportFormat) -> String {
    format!("part-{number:05}.{format}")
}

impl ExportError {
    /// Whether the reader of standard output has closed it.
    pub(super) fn is_closed_output(&self) -> bool {
        matches!(self, ExportError::StandardOutput(error) if error.kind() == ErrorKind::BrokenPipe)
    }
}
