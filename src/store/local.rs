//! Files on a local disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::Location;

/// A failed operation on a file, folder or object.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {at}: {source}")]
pub struct StoreError {
    /// The action that failed, as a verb for the message.
    pub action: &'static str,
    /// The file, folder or object.
    pub at: Location,
    /// The underlying error.
    pub source: io::Error,
}

impl StoreError {
    /// Returns a function that turns an I/O error into one that names the file.
    pub fn of(action: &'static str, at: impl Into<Location>) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError { action, at: at.into(), source }
    }
}

/// Returns the folder for the state that this program keeps on this machine between runs, as defined by the XDG Base
/// Directory Specification; `None` if the environment names no home.
#[must_use]
pub fn state_folder() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("enrich"))
}

/// Creates a folder and its parents; does nothing if it exists.
///
/// # Errors
/// When the folder cannot be created.
pub fn create_folder(path: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(path).map_err(StoreError::of("create the folder", path))
}

/// Creates a folder that only the user can access, and its parents. An existing folder stays as it is.
///
/// # Errors
/// When the folder cannot be created.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        std::fs::create_dir_all(above)?;
    }
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Returns options to open a file for reading and writing; a missing file is created for the user alone.
#[must_use]
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates the new file that is to replace `path`, with the permissions of `path`. An existing file at its name is
/// removed, never followed: where others may write, it could be a link.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let beside = path.with_extension("tmp");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if let Ok(replaced) = std::fs::metadata(path) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&replaced.permissions());
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode & 0o777);
    }
    Ok((beside.clone(), options.open(&beside)?))
}

/// Reads a whole file; `None` if it does not exist.
///
/// # Errors
/// When the file exists and cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::of("read", path)(error)),
    }
}

/// Removes a file; does nothing if it does not exist.
///
/// # Errors
/// When the file exists and cannot be removed.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::of("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Replaces a file as a whole: afterwards, even after a crash, it holds the old bytes or the new ones.
///
/// # Errors
/// When one of the steps fails; the old file is then untouched, except that after a failed flush of
/// the folder either version may survive a crash.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let (beside, mut file) = create_beside(path).map_err(StoreError::of("write", path))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = std::fs::remove_file(&beside);
        return Err(StoreError::of("write", path)(error));
    }
    std::fs::rename(&beside, path).map_err(StoreError::of("replace", path))?;
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => sync_folder(Path::new(".")),
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Replaces a file as a whole, as [`replace`] does, and lets only the user read it.
///
/// # Errors
/// As [`replace`].
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let made = private_file().open(path).and_then(|file| {
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(file)
    });
    made.map_err(StoreError::of("write", path))?;
    replace(path, bytes)
}

/// Replaces a file as a whole and leaves the flush to the operating system: nothing is lost to `kill -9`, but a power
/// failure may leave the old bytes, the new ones, or nothing that can be read.
///
/// # Errors
/// When one of the steps fails; the old file is then untouched.
pub(super) fn replace_unflushed(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let (beside, mut file) = create_beside(path).map_err(StoreError::of("write", path))?;
    if let Err(error) = file.write_all(bytes) {
        let _ = std::fs::remove_file(&beside);
        return Err(StoreError::of("write", path)(error));
    }
    std::fs::rename(&beside, path).map_err(StoreError::of("replace", path))
}

/// Appends to a file, if it exists, and leaves the flush to the operating system: once this has returned, `kill -9`
/// does not lose the bytes. Returns whether the file exists.
///
/// # Errors
/// When the file cannot be written; some of the bytes may then be in it.
pub fn append_unflushed(path: &Path, bytes: &[u8]) -> Result<bool, StoreError> {
    match OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(bytes)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::of("append to", path)(error)),
    }
}

/// Overwrites an existing file in place. On most disks that needs no free space if the new content is not longer than
/// the old. A crash can leave a mix of both.
///
/// # Errors
/// When the file does not exist or cannot be written.
pub fn overwrite(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let written = OpenOptions::new().write(true).open(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()
    });
    written.map_err(StoreError::of("write", path))
}

/// Flushes a folder's entries to the disk.
///
/// # Errors
/// When the folder cannot be opened or flushed.
pub fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(StoreError::of("flush the folder", path))
}

/// Checks that files can be created in a folder; the folder is created if it is missing.
///
/// # Errors
/// When the folder or a file in it cannot be created.
pub fn probe(folder: &Path) -> Result<(), StoreError> {
    create_private_folder(folder).map_err(StoreError::of("create the folder", folder))?;
    let path = folder.join(format!(".probe-{}", std::process::id()));
    remove(&path)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(b"probe"))
        .map_err(StoreError::of("write to", folder))?;
    remove(&path)
}
