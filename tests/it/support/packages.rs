//! Programs of PyPI and npm that tests use: a reader that shares no code with this one, servers of object stores'
//! interfaces, and Spark.
//!
//! Where there is no Python, no Node or no Java, such tests do nothing; `ENRICH_PACKAGES=required`, as CI sets it, makes that a
//! failure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

static MAKING: Mutex<()> = Mutex::new(());

/// A Python that has a module; it and its package, with options of pip before it, are put into the folder of builds if
/// need be.
pub fn of_pypi(module: &str, package: &str) -> Option<PathBuf> {
    unless_required(package, python_with(module, package))
}

/// The folder of an npm package, which is put into the folder of builds if need be.
pub fn of_npm(name: &str, package: &str) -> Option<PathBuf> {
    unless_required(package, node_with(name, package))
}

/// A program of the system that takes an argument.
pub fn of_system(name: &str, argument: &str) -> Option<PathBuf> {
    unless_required(name, run(Path::new(name), &[argument]).map(|()| PathBuf::from(name)))
}

fn unless_required(package: &str, found: Result<PathBuf, String>) -> Option<PathBuf> {
    match found {
        Ok(path) => Some(path),
        Err(error) => {
            assert!(std::env::var_os("ENRICH_PACKAGES").is_none(), "{package} cannot be had: {error}");
            println!("skipped: {package} cannot be had: {error}");
            None
        }
    }
}

fn run(program: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn node_with(name: &str, package: &str) -> Result<PathBuf, String> {
    let _made_once = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node");
    let place = folder.join("node_modules").join(name);
    run(Path::new("node"), &["--version"])?;
    if !place.join("package.json").exists() {
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let prefix = folder.to_str().unwrap();
        run(
            Path::new("npm"),
            &["install", "--prefix", prefix, "--no-audit", "--no-fund", "--silent", package],
        )?;
    }
    Ok(place)
}

fn python_with(module: &str, package: &str) -> Result<PathBuf, String> {
    let _made_once = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = folder.join("bin/python");
    if run(&python, &["-c", &format!("import {module}")]).is_ok() {
        return Ok(python);
    }
    if !python.exists() {
        run(Path::new("python3"), &["-m", "venv", folder.to_str().unwrap()])?;
    }
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(&python, &install.into_iter().chain(package.split_whitespace()).collect::<Vec<_>>())?;
    Ok(python)
}
