//! Folders: of the project, and copies of them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The project's folder.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of tables that other engines wrote.
pub fn tables() -> PathBuf {
    project().join("tests/tables")
}

/// Every job in `config/`.
pub fn shipped() -> Vec<PathBuf> {
    let files = std::fs::read_dir(project().join("config")).unwrap().map(|entry| entry.unwrap().path());
    let mut jobs: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect();
    jobs.sort();
    jobs
}

/// The parts of the project that the quickstart needs, somewhere else.
pub fn clone() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for part in ["config", "examples"] {
        copy_of(&project().join(part), &folder.path().join(part));
    }
    let root = folder.path().canonicalize().unwrap();
    (folder, root)
}

/// Copies a folder with everything below it.
pub fn copy_of(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_of(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// Every file below a folder with its content.
pub fn everything_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.path(), std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    found
}
