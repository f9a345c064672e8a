//! Where an export goes, as the user writes it.

use std::path::Path;

use percent_encoding::percent_decode_str;

use super::error::ExportError;
use super::format::ExportFormat;
use crate::config::Job;
use crate::store::{ExistingFile, Folder, Location, Objects};
use crate::table::objects;

/// Where an export goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To standard output.
    StandardOutput,
    /// Into one file.
    File(Location),
    /// Into a folder of files.
    Folder(Location),
}

impl Destination {
    /// Returns the destination that a user wrote, relative to `folder`, and the format of its files. `-` is standard
    /// output; a folder exists or is written with a slash at its end, and its files are Parquet unless `format` is given.
    ///
    /// # Errors
    /// When it is no location, or the format is unknown or given twice.
    pub fn parse(
        written: &str,
        folder: &Path,
        format: Option<ExportFormat>,
    ) -> Result<(Self, ExportFormat), ExportError> {
        let unknown = || ExportError::UnknownFormat { written: written.to_owned() };
        if written == "-" {
            return Ok((Destination::StandardOutput, format.ok_or_else(unknown)?));
        }
        let at = Location::resolve_to_write(written, folder).map_err(ExportError::Location)?;
        if written.ends_with('/') || at.path().is_some_and(Path::is_dir) {
            return Ok((Destination::Folder(at), format.unwrap_or(ExportFormat::Parquet)));
        }
        let format = match (ExportFormat::of_file(written), format) {
            (Some(named), Some(format)) if named != format => {
                return Err(ExportError::OtherFormat { written: written.to_owned(), named, format });
            }
            (named, format) => named.or(format).ok_or_else(unknown)?,
        };
        Ok((Destination::File(at), format))
    }

    /// Returns the location; `None` for standard output.
    #[must_use]
    pub fn at(&self) -> Option<&Location> {
        match self {
            Destination::StandardOutput => None,
            Destination::File(at) | Destination::Folder(at) => Some(at),
        }
    }

    /// Checks that the destination is free, and that it is not one of the job's tables.
    ///
    /// # Errors
    /// When it is not, or this cannot be determined.
    pub async fn check(&self, job: &Job, existing: ExistingFile) -> Result<(), ExportError> {
        let Some(at) = self.at() else { return Ok(()) };
        for (table, place) in [("target", &job.target.location), ("source", &job.source.location)] {
            let is_in = |at: &Location| at.is_same_place(place) || at.is_inside(place);
            if is_in(at) || at.split().is_some_and(|(above, _)| is_in(&above)) {
                return Err(ExportError::OwnTable { at: at.clone(), table });
            }
        }
        match self {
            Destination::StandardOutput => {}
            Destination::File(at) => {
                let is_there = match at.path() {
                    Some(path) if path.exists() && !path.is_file() => {
                        return Err(ExportError::NotAFile { at: at.clone() });
                    }
                    Some(path) => path.exists(),
                    None => match folder_of(at).await? {
                        (Folder::Remote(folder), name) => folder.has(&name).await?,
                        (Folder::Local(_), _) => false,
                    },
                };
                if is_there && existing == ExistingFile::Kept {
                    return Err(ExportError::Exists { at: at.clone() });
                }
            }
            Destination::Folder(at) => {
                let is_empty = match at.path() {
                    Some(path) if path.exists() && !path.is_dir() => {
                        return Err(ExportError::NotAFolder { at: at.clone() });
                    }
                    Some(path) => {
                        std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
                    }
                    None => Objects::new(at.clone(), objects(at).await?).list().await?.is_empty(),
                };
                if !is_empty {
                    return Err(ExportError::NotEmpty { at: at.clone() });
                }
            }
        }
        Ok(())
    }
}

/// Returns the folder of a file, and the file's name in it.
pub(super) async fn folder_of(at: &Location) -> Result<(Folder, String), ExportError> {
    let split = at.split().ok_or_else(|| ExportError::NotAFile { at: at.clone() })?;
    Ok(match split {
        (above, name) if above.path().is_none() => {
            let name = percent_decode_str(&name).decode_utf8_lossy().into_owned();
            (Folder::Remote(Objects::new(above.clone(), objects(&above).await?)), name)
        }
        (above, name) => (Folder::Local(above.path().unwrap_or(Path::new("/")).to_owned()), name),
    })
}
